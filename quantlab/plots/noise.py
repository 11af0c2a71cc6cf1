"""How sure a difference between two formats is, story by story: its error bar against the number of stories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from quantlab.plots import theme
from quantlab.plots.theme import Picture

BAR = 2  # standard errors that are drawn


@dataclass(frozen=True)
class Noise:
    """The difference a - b of a measure on the first n stories, for several n."""

    a: str
    b: str
    measure: str  # "perplexity"
    unit: str  # "%"
    lower_is_better: bool
    counts: Sequence[int]  # n
    means: Sequence[float]
    stderrs: Sequence[float]
    chances: Sequence[float]  # how often chance would part them as far
    at: int  # which n
    level: float  # a chance below this is a difference

    @property
    def told(self) -> bool:
        """Whether the stories so far tell the two apart."""
        return self.chances[self.at] < self.level

    @property
    def said(self) -> str:
        """The difference with its error, in words."""
        return f"{self.means[self.at]:+.3g} ± {self.stderrs[self.at]:.2g} {self.unit}"

    @property
    def label(self) -> str:
        """Pair and measure."""
        return f"{self.measure}, {self.a} less {self.b}"


def noise_picture(now: Noise, before: Noise | None = None) -> Picture:
    """The difference with a band of two standard errors against the number of stories; zero is "no difference"."""
    with theme.style():
        picture = Picture(figsize=(10, 3.9), dpi=theme.DPI)
        axes = picture.add_axes((0.085, 0.145, 0.9, 0.59))
        low, high = ([m + side * BAR * s for m, s in zip(now.means, now.stderrs, strict=True)] for side in (-1, 1))
        colour = theme.GREEN if now.told else theme.VERMILION
        axes.fill_between(now.counts, low, high, color=theme.PALE_SKY, alpha=0.8, linewidth=0)
        axes.plot(now.counts, now.means, color=theme.BLUE, linewidth=1.8)
        if before is not None and (before.label, before.unit) == (now.label, now.unit):
            axes.axvline(before.counts[before.at], color=theme.SOFT, linestyle=(0, (3, 2)), linewidth=1)
        axes.axhline(0, color=theme.INK, linewidth=1)
        axes.errorbar(
            now.counts[now.at], now.means[now.at], yerr=BAR * now.stderrs[now.at], fmt="o", color=colour, markersize=9,
            markeredgecolor=theme.PAPER, elinewidth=2, capsize=4, zorder=4,
        )  # fmt: skip
        axes.set(xlabel="stories", ylabel=f"difference, {now.unit}", xlim=(min(now.counts) - 0.5, max(now.counts) + 1))
        edge = 1.1 * max(*map(abs, low), *map(abs, high))
        axes.set_ylim(-edge, edge)
        better = now.a if now.lower_is_better else now.b
        axes.annotate(f"below 0: {better} is better", (0.995, 0.03), xycoords="axes fraction", ha="right", size=8.8,
                      color=theme.SOFT, bbox=theme.MASK)  # fmt: skip
        verdict = "the stories tell them apart" if now.told else "this may be chance"
        picture.text(0.012, 0.94, f"{now.label}: {now.said}: {verdict}", size=11.5, weight="bold")
        handles = [
            Line2D([], [], color=theme.BLUE, linewidth=1.8, label="difference on the first n stories"),
            Patch(color=theme.PALE_SKY, label=f"{BAR} standard errors to each side"),
            Line2D([], [], color=colour, marker="o", linestyle="", label="this setting"),
        ]
        picture.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.925), ncols=3, handletextpad=0.5)
        picture.words = noise_words(now, before)
    return picture


def noise_words(now: Noise, before: Noise | None = None) -> str:
    """What `noise_picture` shows, in words."""
    chance = now.chances[now.at]
    verdict = (
        f"That is {now.a if (now.means[now.at] < 0) == now.lower_is_better else now.b} ahead."
        if now.told
        else "So you may not say that one is better."
    )
    words = (
        f"{now.label[:1].upper()}{now.label[1:]}, on {now.counts[now.at]} stories: {now.said}. Chance alone parts them "
        f"as far in {chance:.1%} of the cases. {verdict} On all {now.counts[-1]}: {now.means[-1]:+.3g} ± "
        f"{now.stderrs[-1]:.2g} {now.unit}."
    )
    if before is None:
        return words
    return f"{words} Before: {before.label}, {before.counts[before.at]} stories, {before.said}."
