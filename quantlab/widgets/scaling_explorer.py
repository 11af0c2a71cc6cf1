"""Lesson 3's second explorer: AWQ's search for a scale, on layers of the story model, with outliers or without."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from quantlab.core import LayerStats
from quantlab.lesson.lesson2.salience import PLANTED, SHARE
from quantlab.lesson.lesson2.story import StoryModel, rounded, story_model
from quantlab.methods.awq import normalized
from quantlab.methods.salience import largest
from quantlab.plots import Picture, Scaled, scaling_picture, scaling_words
from quantlab.plots.scaling import LOUDEST
from quantlab.widgets.explorer import Control, Explorer

BITS = (4, 3, 2)
EXPONENTS = tuple(round(0.05 * step, 2) for step in range(21))
OUTLIERS = f", outliers x {PLANTED:g}"
LAYERS = {  # what the learner reads -> the layer, and how large its loudest inputs are made
    "keys of block 2": ("model.layers.2.self_attn.k_proj", 1.0),
    f"keys of block 2{OUTLIERS}": ("model.layers.2.self_attn.k_proj", PLANTED),
    "keys of block 0": ("model.layers.0.self_attn.k_proj", 1.0),
    "output of attention, block 1": ("model.layers.1.self_attn.o_proj", 1.0),
}


@dataclass(frozen=True)
class ScalingResult:
    """A setting, and the search as it is there."""

    layer: str
    bits: int
    exponent: float
    scaled: Scaled
    spread: tuple[float, float]  # smallest and largest scale

    def __eq__(self, other: object) -> bool:
        mine = (self.layer, self.bits, self.exponent)
        return isinstance(other, ScalingResult) and mine == (other.layer, other.bits, other.exponent)

    def __hash__(self) -> int:
        return hash((self.layer, self.bits, self.exponent))

    def words(self) -> str:
        """The picture in words."""
        return scaling_words(self.scaled)

    def formula(self) -> str:
        """The identity, the family of scales, and the error."""
        low, high = self.spread
        return "\n".join(
            (
                "W x = (W s)(x / s):  nothing has changed, until W s is rounded:  W_hat = Q(W s) / s",
                f"s_j = (mean |x_j|)^a, from {low:.3g} to {high:.3g}   (Q: {self.bits} bits, groups of 128, symmetric)",
                "error = root of tr(E H E') / tr(W H W'),  E = W_hat - W,  H = X'X",
                f"      = {self.scaled.errors[self.scaled.at]:.5f};  at a = 0 {self.scaled.errors[0]:.5f}",
            )
        )


def search(
    W: Tensor, stats: LayerStats, bits: int, planted: float = 1.0
) -> tuple[list[float], list[float], list[float]]:
    """For each exponent: the relative output error, and the parts of loud and of quiet inputs in its square.

    planted: 1% of the inputs are so many times as large and the weights that read them so many times as small.
    """
    loud = torch.ones(W.shape[1])
    loud[largest(stats.x_absmean, SHARE)] = planted
    W, stats = W / loud, stats.scaled(1 / loud)
    H, x = stats.H.float(), stats.x_absmean.float()
    whole, chosen = float(((W @ H) * W).sum()), largest(x, LOUDEST)
    errors, parts = [], []
    for a in EXPONENTS:
        s = normalized(x.clamp(min=1e-4) ** a)
        E = rounded(W * s, bits) / s - W
        errors.append(max(float(((E @ H) * E).sum()) / whole, 0.0) ** 0.5)
        by_column = E.square().sum(0) * H.diagonal()
        parts.append((float(by_column[chosen].sum()), float(by_column.sum())))
    first = parts[0][1] or 1.0
    return errors, [part / first for part, _ in parts], [(both - part) / first for part, both in parts]


@lru_cache(maxsize=32)
def search_of(layer: str, bits: int) -> tuple[list[float], list[float], list[float]]:
    """The search on one of LAYERS."""
    model: StoryModel = story_model()
    name, planted = LAYERS[layer]
    return search(model.layers[name], model.stats[name], bits, planted)


def scaling_explorer(layer: str = "keys of block 2", bits: int = 3, exponent: float = 0.0) -> Explorer[ScalingResult]:
    """The explorer on the story model, which is calibrated first; every search is made beforehand."""
    model = story_model()
    for each in LAYERS:
        for width in BITS:
            search_of(each, width)

    @lru_cache(maxsize=512)
    def result(layer: str, bits: int, exponent: float) -> ScalingResult:
        errors, loud, quiet = search_of(layer, bits)
        name, planted = LAYERS[layer]
        x = model.stats[name].x_absmean.clamp(min=1e-4).clone()
        x[largest(x, SHARE)] *= planted
        s = normalized(x.float() ** exponent)
        at = EXPONENTS.index(exponent)
        scaled = Scaled(f"{layer} in {bits} bits", EXPONENTS, errors, at, loud, quiet)
        return ScalingResult(layer, bits, exponent, scaled, (float(s.min()), float(s.max())))

    controls = (
        Control("exponent", "Exponent", EXPONENTS, exponent, lambda a: f"a = {a:g}", slider=True),
        Control("bits", "Bits", tuple(reversed(BITS)), bits, slider=True),
        Control("layer", "Layer", tuple(LAYERS), layer),
    )
    return Explorer(controls, result, draw)


def draw(result: ScalingResult, ghost: ScalingResult | None) -> Picture:
    """The picture of this setting, with the curve before as a dashed line."""
    return scaling_picture(result.scaled, ghost.scaled if ghost else None)
