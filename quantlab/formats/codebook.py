"""Sixteen levels in a table: a weight of a block becomes the nearest entry times the block's largest magnitude.

    w_hat = absmax(block) * levels[q],   q in {0, ..., 15}

**NF4** puts the levels where bell-shaped weights are: at quantiles of the normal distribution, so that each is used
about equally often. `normal_levels` computes them; the table is what it gives.

**FP4** is a sign, two exponent bits and a mantissa bit, but not the E2M1 of MXFP4 and NVFP4 (see minifloat.py): its
exponent counts down, and its one subnormal is 1/192 of the largest value, where E2M1's is 1/12. So four of its sixteen
codes lie within 1/192 of zero, and none between there and 1/6.

The nearest level is found by counting the midpoints that lie strictly below x: exactly halfway, the *lower* level
wins, whichever sign x has. FP4 has two zeros, the codes 0 and 8. Between them, at 0, lies a midpoint like any other:
exact zeros and small negative numbers take code 0, small *positive* ones take code 8. "The nearest level" alone does
not say so: taking the first of two equal levels agrees with bitsandbytes on all but the small positive weights,
3 in 1000 of Gaussian weights in blocks of 64.

Sources: Dettmers et al. 2023, QLoRA (arXiv 2305.14314, section 3 and appendix E) for NF4; bitsandbytes 0.50.2,
`get_4bit_type` and the `quantize_4bit` of its CPU backend, checked bit for bit. Its Triton kernels divide by absmax
and compare with thresholds written out in decimals: a GPU may differ from the CPU within an ulp or two of a midpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Codebook:
    """Levels within [-1, 1] in the order of their codes.

    >>> NF4.nearest(torch.tensor([-1.0, 0.0, 0.03, 0.04, 0.823]))
    tensor([ 0,  7,  7,  8, 14], dtype=torch.uint8)
    >>> NF4.levels[14]
    tensor(0.7230)
    """

    name: str
    table: tuple[float, ...]

    @cached_property
    def levels(self) -> Tensor:
        """The level of each code, float32 [16]."""
        return torch.tensor(self.table)

    @cached_property
    def order(self) -> Tensor:
        """The codes from the lowest level to the highest, uint8 [16]; of two zeros the first comes first."""
        return self.levels.argsort(stable=True).to(torch.uint8)

    @cached_property
    def midpoints(self) -> Tensor:
        """Where one level ends and the next begins, float32 [15]."""
        ascending = self.levels[self.order.int()]
        return (ascending[1:] + ascending[:-1]) / 2

    @cached_property
    def _counter(self) -> Counter:
        return Counter(self.midpoints)

    def nearest(self, x: Tensor) -> Tensor:
        """Codes, uint8, of the levels nearest to x in [-1, 1]; halfway, the lower level."""
        return self._counter.look_up(x, self.order)


class Counter:
    """How many of some thresholds within [-1, 1] lie strictly below x: `torch.bucketize`, ten times faster.

    A binary search asks four questions whose answers no processor can guess. Instead, cut [-1, 1] into cells so narrow
    that none holds two thresholds. The cell of x tells how many thresholds lie in the cells before it, and one
    comparison settles the threshold inside. This is exact although the cell is computed with rounding: rounding keeps
    the order, so a threshold in an earlier cell is below x and one in a later cell is not.
    """

    def __init__(self, thresholds: Tensor) -> None:
        gap = float(torch.cat([thresholds, torch.tensor([2.0])]).diff().min())
        self.scale = 2.0
        while self.scale * gap < 1.01:
            self.scale *= 2
        cells = torch.arange(2 * int(self.scale) + 1, dtype=torch.int32)
        self.before = torch.bucketize(cells, self._cell(thresholds)).int()  # thresholds in the cells before each
        inside = torch.cat([thresholds, torch.tensor([torch.inf])])[self.before]
        self.inside = torch.where(self._cell(inside.clamp(max=1)) == cells, inside, torch.inf)

    def _cell(self, x: Tensor) -> Tensor:
        return (x + 1).mul_(self.scale).int()

    def count(self, x: Tensor) -> Tensor:
        """Thresholds below x, element by element, for x in [-1, 1]."""
        return self.look_up(x, torch.arange(int(self.before.max()) + 2))

    def look_up(self, x: Tensor, table: Tensor) -> Tensor:
        """table[count(x)], element by element."""
        cell = self._cell(x).flatten()
        above = x.flatten() > self.inside.index_select(0, cell)
        low = table[self.before]
        high = table[(self.before + 1).clamp(max=len(table) - 1)]
        return torch.cat([low, high]).index_select(0, cell.add_(above, alpha=len(low))).reshape(x.shape)


def normal_levels(tail: float = 0.9677083) -> Tensor:
    """NF4's levels: quantiles of the normal distribution, 7 below zero, zero, and 8 above it, over the largest.

    `tail` is the probability below the outermost level, the mean of 1 - 1/30 and 1 - 1/32 to seven digits: with 1 the
    quantile would be infinite. Zero is kept as a level of its own because many weights (padding, pruned ones) are 0.

    >>> torch.equal(normal_levels(), NF4.levels)
    True
    """
    above, below = (torch.special.ndtri(torch.linspace(tail, 0.5, n)[:-1].double()).float() for n in (9, 8))
    levels = torch.cat([-below, torch.zeros(1), above.flip(0)])
    return levels / levels.max()


# normal_levels(), as get_4bit_type("nf4") has them and every NF4 checkpoint repeats them (quant_map)
NF4 = Codebook("nf4", (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
))  # fmt: skip

# The bits are S E E M. Twelfths, as get_4bit_type("fp4") has them before it divides by 12: E = 1, 2, 3 stand for
# 8, 4, 2 (the exponent counts down), M adds a half of that, and E = 0 is 0 or 1/16.
_TWELFTHS = (0.0, 1 / 16, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)
FP4 = Codebook("fp4", tuple(sign * size / 12 for sign in (1, -1) for size in _TWELFTHS))

NF4_LEVELS = NF4.levels
FP4_LEVELS = FP4.levels
