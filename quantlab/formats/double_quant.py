"""Double quantization: the scales themselves in 8 bits.

A float32 absmax for each block of 64 costs half a bit a weight. Half of that can be had back nearly for nothing: the
scales of a layer are alike, so take their mean away and store what is left in 8 bits, 256 scales to a block:

    absmax ~ offset + absmax2(block of 256) * DYNAMIC[code],   offset = mean(absmax)

DYNAMIC is Dettmers' 8-bit dynamic map: 127 values on each side of zero, a decade of magnitudes at a time, with one
value in the smallest decade, two in the next, and 64 in the largest; then 0, and 1 (but no -1: the lowest is -0.993).

The price: one outlier block stretches the 8-bit grid of its 255 neighbours. A block of small weights beside a huge one
gets a scale that may be many times too large, or even negative. The codes of the weights were chosen for the exact
absmax, so with double quantization they are no longer always the nearest.

Sources: Dettmers et al. 2023, QLoRA (arXiv 2305.14314, section 3), double quantization; Dettmers 2015 (arXiv
1511.04561), the dynamic map; bitsandbytes 0.50.2, `quantize_4bit(compress_statistics=True)`. Its C++ looks codes up in
a table of 65,536 points instead of comparing with the 255 midpoints, so a value within 1/65,535 of a midpoint may take
the code beyond it: `compress` does the same. It is compiled with fused multiply-add, but all 2^25 + 1 numbers that can
reach that instruction give the same code without. The mean depends on the order of summation, torch's on both sides.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from quantlab.core import Params

BLOCK = 256  # scales that share an absmax of their own
_POINTS = 65_535  # steps of the reference's table over [-1, 1]


@cache
def dynamic_map() -> Tensor:
    """The 256 values in ascending order, float32.

    >>> dynamic_map()[[0, 126, 127, 128, 255]]
    tensor([-9.9297e-01, -5.5000e-07,  0.0000e+00,  5.5000e-07,  1.0000e+00])
    """
    decades = []
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        decades.append(10.0 ** (i - 6) * (edges[1:] + edges[:-1]) / 2)
    positive = torch.cat(decades)
    return torch.cat([-positive, torch.zeros(1), positive, torch.ones(1)]).sort().values


@cache
def _code_of_point() -> Tensor:
    """The code of each of the 65,536 points: how many midpoints of the map lie below it, uint8."""
    table = dynamic_map()
    midpoints = (table[1:] + table[:-1]) / 2
    points = torch.arange(_POINTS + 1, dtype=torch.float32) * 2 / _POINTS - 1
    return torch.bucketize(points, midpoints).to(torch.uint8)


def _by_block(x: Tensor) -> Tensor:
    """[n] -> [blocks, 256], padded with zeros."""
    return torch.nn.functional.pad(x, (0, -len(x) % BLOCK)).reshape(-1, BLOCK)


def compress(absmax: Tensor) -> Params:
    """absmax float32 [n] -> {"absmax8": uint8 [n], "absmax2": float32 [n/256], "offset": float32 []}."""
    offset = absmax.mean()
    if not torch.isfinite(offset):
        raise ValueError(f"the sum of {len(absmax)} block maxima is beyond float32; rescale the weights")
    rest = _by_block(absmax - offset)
    absmax2 = rest.abs().amax(-1)
    x = (rest * (1 / absmax2)[:, None]).nan_to_num(-1).clamp(-1, 1)  # a block of zeros takes code 0: any code would do
    point = ((x + 1) / 2 * _POINTS + 0.5).int()
    codes = _code_of_point()[point].flatten()[: len(absmax)]
    return {"absmax8": codes, "absmax2": absmax2, "offset": offset}


def expand(p: Params) -> Tensor:
    """What `compress` stored, as float32 [n]."""
    values = dynamic_map()[_by_block(p["absmax8"]).int()] * p["absmax2"][:, None]
    return values.flatten()[: len(p["absmax8"])] + p["offset"]
