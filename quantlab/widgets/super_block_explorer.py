"""Lesson 3's third explorer: a super-block of Q4_K, byte by byte: which bytes make a weight, what importance moves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from quantlab.core import LayerStats, Params, check_weights
from quantlab.formats.catalog import get
from quantlab.plots import Picture, SuperBlock, super_block_picture, super_block_words
from quantlab.widgets.explorer import Control, Explorer

SUPER, SUB = 256, 32
SEARCHES = ("all errors alike", "weighed by the inputs")


@dataclass(frozen=True)
class SuperBlockResult:
    """A weight of a super-block, and the numbers that it is made of."""

    sub: int
    place: int
    search: str
    block: SuperBlock
    d: float
    dmin: float
    scale: int
    minimum: int
    code: int

    def __eq__(self, other: object) -> bool:
        mine = (self.sub, self.place, self.search, self.block.octets)
        return isinstance(other, SuperBlockResult) and mine == (
            other.sub, other.place, other.search, other.block.octets,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.sub, self.place, self.search))

    def words(self) -> str:
        """The picture in words."""
        return super_block_words(self.block)

    def formula(self) -> str:
        """From bytes to the weight."""
        step, low = self.d * self.scale, self.dmin * self.minimum
        return "\n".join(
            (
                f"d = {self.d:.6g}, dmin = {self.dmin:.6g}: two float16 for 256 weights",
                f"scale {self.scale}, minimum {self.minimum}: two numbers of 6 bits for 32 weights",
                f"step = d x scale = {step:.6f};  lowest level = -dmin x minimum = {-low:.6f}",
                f"code {self.code} ({self.code:04b}):  {step:.6f} x {self.code} - {low:.6f} = {self.block.value:.6f}",
                f"{144 * 8 / SUPER:g} bits a weight: 4 (code) + 2 x 6 / 32 (scale, minimum) + 2 x 16 / 256 (d, dmin)",
            )
        )


def marked(sub: int, place: int) -> tuple[int, ...]:
    """The bytes of a super-block that make weight `place` of sub-block `sub`.

    >>> marked(0, 0), marked(5, 3)
    ((0, 1, 2, 3, 4, 8, 16), (0, 1, 2, 3, 5, 9, 13, 83))
    """
    packed = (4 + sub, 8 + sub) if sub < 4 else (sub, 4 + sub, 8 + sub)
    return (0, 1, 2, 3, *packed, 16 + SUB * (sub // 2) + place)


def block_result(W: Tensor, importance: Tensor | None, sub: int, place: int, search: str) -> SuperBlockResult:
    """Quantize the row W [1, 256] and look at one of its weights."""
    fmt = get("q4_k")
    Q = fmt.quantize(W, importance)
    q, p = fmt.packing.unpack(Q.parts, Q.shape)
    inside = slice(SUB * sub, SUB * (sub + 1))
    W_hat, levels = fmt.grid.decode(q, p), _levels(p, sub)
    weights, kept = W[0, inside], W_hat[0, inside]
    error = float((kept - weights).norm() / weights.norm().clamp(min=1e-12))
    named = f"weight {place} of sub-block {sub}, {search}"
    block = SuperBlock(
        named, Q.to_bytes(), marked(sub, place), weights.tolist(), levels, float(weights[place]), float(kept[place]),
        error,
    )  # fmt: skip
    scale, minimum = int(p["scale"][0, sub]), int(p["min"][0, sub])
    code = int(q[0, SUB * sub + place])
    return SuperBlockResult(sub, place, search, block, float(p["d"]), float(p["dmin"]), scale, minimum, code)


def _levels(p: Params, sub: int) -> list[float]:
    step, low = p["d"][0, 0] * p["scale"][0, sub], p["dmin"][0, 0] * p["min"][0, sub]
    levels: Tensor = torch.arange(16) * step - low
    return levels.tolist()


def super_block_explorer(
    W: Tensor, stats: LayerStats, sub: int = 0, place: int = 3, search: str = "all errors alike"
) -> Explorer[SuperBlockResult]:
    """The explorer on the first 256 weights of W [n, k]; raises ValueError for shorter rows."""
    check_weights(W)
    stats.check(W)
    if W.shape[1] < SUPER:
        raise ValueError(f"a row of {W.shape[1]} weights is too short for a super-block of {SUPER}: take a wider layer")
    row, importance = W.detach()[:1, :SUPER].float(), stats.x_sqmean.float()[:SUPER]
    controls = (
        Control("sub", "Sub-block", tuple(range(SUPER // SUB)), sub, lambda at: f"number {at}", slider=True),
        Control("place", "Weight", tuple(range(SUB)), place, lambda at: f"number {at}", slider=True),
        Control("search", "Scales for", SEARCHES, search),
    )

    @lru_cache(maxsize=1024)
    def model(sub: int, place: int, search: str) -> SuperBlockResult:
        return block_result(row, importance if search == SEARCHES[1] else None, sub, place, search)

    return Explorer(controls, model, draw)


def draw(result: SuperBlockResult, ghost: SuperBlockResult | None) -> Picture:
    """The picture of this setting, with the levels before."""
    return super_block_picture(result.block, ghost.block if ghost else None)
