"""Lesson 4's first explorer: how many stories it takes before a difference between two formats is one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from quantlab.evaluate.quality import Quality
from quantlab.evaluate.statistics import FLIPS, LEVEL, chance, clustered_stderr
from quantlab.lesson.lesson4.measured import STORIES, of_stories
from quantlab.plots.noise import Noise, noise_picture, noise_words
from quantlab.plots.theme import Picture
from quantlab.widgets.explorer import Control, Explorer

COUNTS = (*range(2, STORIES + 1),)
PAIRS = {  # what the learner reads -> two formats, rounded to nearest
    "int4, groups of 32 and of 128": ("int4_g32", "int4_g128"),
    "int8 and int4": ("int8", "int4_g128"),
    "NF4 and int4 in groups of 32": ("nf4", "int4_g32"),
}
MEASURES = ("perplexity", "KL divergence", "same next word")
_UNITS = {"perplexity": "%", "KL divergence": "nats", "same next word": "points"}


@dataclass(frozen=True)
class NoiseResult:
    """A setting, and the difference as it is there."""

    noise: Noise

    def words(self) -> str:
        """The picture in words."""
        return noise_words(self.noise)

    def formula(self) -> str:
        """The mean, its error clustered by story, and the flipping of signs."""
        n = self.noise
        count = n.counts[n.at]
        ways = f"{min(2**count, FLIPS):,} of the {2**count:,}" if 2**count > FLIPS else f"all {2**count:,}"
        return "\n".join(
            (
                f"d = {n.measure} of {n.a} less that of {n.b}, for every token of {count} stories",
                "error of the mean = root( G/(G-1) x sum over G stories of (sum over its tokens of d - mean)^2 ) / N",
                f"              mean = {n.means[n.at]:+.4g} {n.unit},  error = {n.stderrs[n.at]:.3g} {n.unit}",
                f"p = share of {ways} ways to give the stories' differences signs that part them as far",
                f"  = {n.chances[n.at]:.4f}   (below {n.level:g}: a difference; the least that {count} stories allow "
                f"is {2 / 2**count:.2g})",
            )
        )


def noise_explorer(
    pair: str = next(iter(PAIRS)), measure: str = "perplexity", stories: int = 8
) -> Explorer[NoiseResult]:
    """The explorer on the story model; each format is measured first, on all the stories."""
    for formats in PAIRS.values():
        for fmt in formats:
            of_stories(fmt)
    controls = (
        Control("stories", "Stories", COUNTS, stories, slider=True),
        Control("measure", "Measure", MEASURES, measure),
        Control("pair", "Formats", tuple(PAIRS), pair),
    )
    return Explorer(controls, result, draw)


@lru_cache(maxsize=64)
def curve(pair: str, measure: str) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Means, errors and chances of a pair on the first n stories, for every n of COUNTS."""
    a, b = (of_stories(fmt) for fmt in PAIRS[pair])
    x, y = _samples(a, measure), _samples(b, measure)
    means, errors, chances = [], [], []
    for count in COUNTS:
        first = a.cluster < count
        change, cluster = (x - y)[first], a.cluster[first]
        mean, error = change.mean().item(), clustered_stderr(change, cluster)
        if measure == "perplexity":  # of two perplexities: exp of the difference
            error, mean = 100 * math.exp(mean) * error, 100 * (math.exp(mean) - 1)
        means.append(mean)
        errors.append(error)
        chances.append(chance(x[first], y[first], cluster))
    return tuple(means), tuple(errors), tuple(chances)


def _samples(quality: Quality, measure: str) -> Tensor:
    if measure == "perplexity":
        return quality.nll
    return quality.kl if measure == "KL divergence" else 100 * quality.same_top.double()


def result(stories: int, measure: str, pair: str) -> NoiseResult:
    """The pure function of the three controls."""
    means, errors, chances = curve(pair, measure)
    a, b = PAIRS[pair]
    lower = measure != "same next word"
    at = COUNTS.index(stories)
    return NoiseResult(Noise(a, b, measure, _UNITS[measure], lower, COUNTS, means, errors, chances, at, LEVEL))


def draw(result: NoiseResult, ghost: NoiseResult | None) -> Picture:
    """The picture of this setting; where the pair is the same, a dashed line marks the stories before."""
    return noise_picture(result.noise, ghost.noise if ghost else None)
