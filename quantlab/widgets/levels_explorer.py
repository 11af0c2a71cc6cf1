"""Lesson 2's first explorer: bits, group and kind of levels, on a real weight matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from quantlab.core import check_weights
from quantlab.lesson.lesson2.story import grid_of
from quantlab.plots import Picture, Rounded, levels_picture, levels_words
from quantlab.plots.levels import BINS
from quantlab.widgets.explorer import Control, Explorer

BITS = (8, 6, 5, 4, 3, 2)
GROUPS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
KINDS = ("symmetric", "with a zero point", "normal quantiles")
ROWS, COLUMNS = 32, 128  # of the patch that is drawn
SCALE_BITS = 16  # of a scale; a zero point takes as many bits as a code


@dataclass(frozen=True)
class LevelsResult:
    """A setting, and what it does to the matrix."""

    bits: int
    group: int
    kind: str
    rounded: Rounded
    example: tuple[float, ...]  # lowest and highest level of the first group, one step (0 where steps differ)

    def __eq__(self, other: object) -> bool:
        mine = (self.bits, self.group, self.kind, self.rounded.error)
        return isinstance(other, LevelsResult) and mine == (other.bits, other.group, other.kind, other.rounded.error)

    def __hash__(self) -> int:
        return hash((self.bits, self.group, self.kind))

    def words(self) -> str:
        """The picture in words."""
        return levels_words(self.rounded)

    def formula(self) -> str:
        """Scale, code and value of the first group; the bits that are stored."""
        low, high, step = self.example
        steps = 2**self.bits - 1
        beside = self.bits if self.kind == "with a zero point" else 0
        spaced = f"{steps} steps of {step:.5f}" if step else f"{steps + 1} uneven levels, a table times the largest |w|"
        code = {
            "symmetric": f"scale = largest |w| / {steps / 2:g};  code = round(w / scale), {-(steps + 1) // 2} to "
            f"{steps // 2};  value = scale x code",
            "with a zero point": f"scale = (high - low) / {steps};  code = round(w / scale) + zero point, 0 to {steps};"
            "  value = scale x (code - zero point)",
            "normal quantiles": "scale = largest |w|;  code = the nearest entry of the table;  value = scale x entry",
        }[self.kind]
        zero = f" + {beside} (zero point)" if beside else ""
        return "\n".join(
            (
                code,
                f"first group: levels from {low:.4f} to {high:.4f}, {spaced}",
                f"bits a weight = {self.bits} + ({SCALE_BITS} (scale){zero}) / {self.group}"
                f" = {self.rounded.bits_per_weight:.3f}",
            )
        )


@lru_cache(maxsize=8)
def normal_table(bits: int) -> Tensor:
    """Levels at the quantiles of a normal distribution, as NF4's for 4 bits: one more above zero than below.

    >>> normal_table(2)
    tensor([-1.0000,  0.0000,  0.4358,  1.0000])
    """
    half = 2 ** (bits - 1)
    tail = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    above, below = (torch.special.ndtri(torch.linspace(tail, 0.5, n)[:-1].double()) for n in (half + 1, half))
    levels = torch.cat([-below, torch.zeros(1), above.flip(0)]).float()
    return levels / levels.abs().max()


def levels_result(W: Tensor, bits: int, group: int, kind: str) -> LevelsResult:
    """Round W [n, k] and say where its levels lie, how many weights snap to each, and what it costs."""
    G = W.reshape(len(W), -1, group)  # [n, k/g, g]
    if kind == "with a zero point":
        low, high = G.amin(-1, keepdim=True).clamp(max=0), G.amax(-1, keepdim=True).clamp(min=0)
    else:
        high = G.abs().amax(-1, keepdim=True)
        low = -high
    span = (high - low).clamp(min=1e-12)
    places = (G - low) / span * 2 - 1  # in the group's range
    if kind == "normal quantiles":
        levels, step = normal_table(bits), 0.0
        q = torch.bucketize(places, (levels[1:] + levels[:-1]) / 2)
        W_hat = (levels[q] * high).reshape(W.shape)
    else:
        grid, levels = grid_of(bits, group, kind == "symmetric"), _places(bits, kind)
        p = grid.fit(W)
        q = grid.encode(W, p)
        W_hat, step = grid.decode(q, p), float(p["scale"][0, 0])
    beside = SCALE_BITS + (bits if kind == "with a zero point" else 0)
    used = torch.bincount(q.flatten().long(), minlength=2**bits) / W.numel()
    spread = torch.histc(places, BINS, -1, 1) / W.numel()
    label = f"{bits} bits, groups of {group}, {kind if kind != 'symmetric' else 'symmetric levels'}"
    rounded = Rounded(
        label, W[:ROWS, :COLUMNS], W_hat[:ROWS, :COLUMNS], levels.tolist(), used.tolist(), spread.tolist(),
        float((W_hat - W).norm() / W.norm().clamp(min=1e-12)), bits + beside / group,
    )  # fmt: skip
    first = (float(W_hat[0, :group].min()), float(W_hat[0, :group].max()), step)
    return LevelsResult(bits, group, kind, rounded, first)


def _places(bits: int, kind: str) -> Tensor:
    """Where even levels lie in the group's range; with a zero point they shift by less than half a step."""
    codes, steps = torch.arange(2**bits), 2**bits - 1
    places: Tensor = codes / steps * 2 - 1
    if kind == "symmetric":  # one level at 0, so that all lie half a step lower
        places = (codes - 2 ** (bits - 1)) / (steps / 2)
    return places


def levels_explorer(
    W: Tensor, bits: int = 4, group: int = 128, kind: str = "symmetric"
) -> Explorer[LevelsResult]:  # fmt: skip
    """The explorer on a matrix W [n, k]; raises ValueError for weights that are no matrix of finite floats."""
    check_weights(W)
    weights = W.detach().float()
    groups = tuple(g for g in GROUPS if weights.shape[1] % g == 0)
    controls = (
        Control("bits", "Bits", tuple(reversed(BITS)), bits, slider=True),
        Control("group", "Group", groups, group, lambda g: f"{g} weights", slider=True),
        Control("kind", "Levels", KINDS, kind),
    )

    @lru_cache(maxsize=256)
    def model(bits: int, group: int, kind: str) -> LevelsResult:
        return levels_result(weights, bits, group, kind)

    return Explorer(controls, model, draw)


def draw(result: LevelsResult, ghost: LevelsResult | None) -> Picture:
    """The picture of this setting, with the one before as a dashed outline."""
    return levels_picture(result.rounded, ghost.rounded if ghost else None)
