"""llama.cpp's uneven 4-bit levels: IQ4_NL, and IQ4_XS with two-level scales.

    w_hat = d * v[q],    v = -127 -104 -83 -65 -49 -35 -22 -10  1 13 25 38 53 69 89 113

Weights are bell-shaped, so levels lie close near zero and far apart outside: NF4's idea, with integers from -127 to 113
so that an 8-bit dot product can use them. Two marks of the table: there is no zero (the nearest level is 1), and it is
not symmetric, so that a negative scale turns it round.

    IQ4_NL    a float16 scale for 32 weights                                    4.5 bits a weight
    IQ4_XS    d * (s - 32): s of 6 bits for 32 weights, float16 d for 256       4.25

The scale is searched (`gguf_search`): 16 inverse scales that put the largest weight at -127 and at -134 to -120; the
one whose codes leave the least weighted squared error is kept, and the codes are chosen once more for its scale.
What an error costs: w^2; with an importance matrix Q, Q sqrt(2 mean w^2 + w^2), the mean over the block (XS: 256).

The bytes of IQ4_NL are those of Q4_0. Of IQ4_XS:

    d 2 | scales_h 2 | scales_l 4 | qs 128          136 bytes for 256 weights
    scales_h, little-endian:   s7 s6 s5 s4 s3 s2 s1 s0    the high 2 bits of each
    scales_l, byte j:          s[2j+1] | s[2j]            the low 4 bits
    qs, byte 16 i + j:         q[32 i + j + 16] | q[32 i + j]

Reference: llama.cpp, ggml-quants.c, `quantize_row_iq4_nl_impl`, `best_index_int8`, `kvalues_iq4nl` of ggml-common.h
(release of llama-cpp-python 0.3.36), byte for byte. Where it stores an infinite scale, this raises ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Packing, Params, Parts, Reference
from quantlab.formats.gguf_blocks import (
    BLOCK,
    Blocks,
    blocks_of,
    by_parts,
    half_bytes,
    half_numbers,
    join_nibbles,
    split_nibbles,
    stored_half,
)
from quantlab.formats.gguf_legacy import inverse_of
from quantlab.formats.gguf_search import SMALLEST, chunks, columns, largest, nearest_, root, search, sum_in_order
from quantlab.layout import layout

VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
SUPER = 256


def _codes() -> Tensor:
    """The code of x from -128 up in steps of 1/2: wherever two levels meet, 2 x is a whole number."""
    x = torch.arange(-256, 256) / 2
    halfway = torch.tensor(VALUES).double().unfold(0, 2, 1).mean(-1)
    return (x[:, None] >= halfway).sum(-1).to(torch.uint8)


_LEVELS = torch.tensor(VALUES, dtype=torch.float32)
_CODES = _codes()
_NEAREST = _LEVELS[_CODES.int()]


def nearest_of(table: Tensor, twice_x: Tensor) -> Tensor:
    """What `table` (512 entries) says of x, given 2 x; any shape. In float64, where adding 256 loses nothing."""
    place = twice_x.double().add_(256).clamp_(0, 511).to(torch.int32)
    return table.index_select(0, place.flatten()).reshape(twice_x.shape)


def nearest_code(x: Tensor) -> Tensor:
    """The code of the nearest level, halfway the upper one (`best_index_int8`); uint8, any shape.

    >>> nearest_code(torch.tensor([-500.0, -4.51, -4.5, 0.0, 6.99, 7.0, 113.0])).tolist()
    [0, 7, 8, 8, 8, 9, 15]
    """
    return nearest_of(_CODES, (2 * x).nan_to_num_(torch.inf))


def search_level(x: Tensor, w: Tensor) -> Tensor:
    """The scale [blocks] of blocks x [g, blocks] whose errors cost w; 0 for a block of zeros."""
    q, term = torch.empty_like(x[0]), torch.empty_like(x[0])

    def sums(inverse: Tensor) -> tuple[Tensor, Tensor]:
        sumqx, sumq2 = torch.zeros_like(inverse), torch.zeros_like(inverse)
        twice = 2 * inverse
        for x_i, w_i in zip(x, w, strict=True):
            v = nearest_of(_NEAREST, torch.mul(x_i, twice, out=q))
            wv = torch.mul(w_i, v, out=term)
            sumq2 += v.mul_(wv)
            sumqx += wv.mul_(x_i)
        return sumqx, sumq2

    top = largest(x)
    zero = top.abs() < SMALLEST
    top = top.masked_fill(zero, 1)  # nothing to find there
    outermost = [torch.tensor(float(VALUES[0] + i)) / top for i in range(-7, 8)]
    scale, _ = search([(top / -VALUES[0]).reciprocal(), *outermost], sums)
    return scale.masked_fill(zero, 0)


def scales_of(W: Tensor, importance: Tensor | None, around: int) -> Tensor:
    """Scales [n, k/32]; with importance an error costs Q sqrt(2 mean w^2 + w^2), the mean over `around` weights."""
    x = blocks_of(W.float(), around)
    if importance is None:
        costs = x * x
    else:
        sigma2 = sum_in_order(columns(x).square_()) * (2 / around)
        costs = importance.float().reshape(1, -1, around) * root(sigma2.reshape(*x.shape[:2], 1) + x * x)
    parts = chunks(columns(x.reshape(-1, BLOCK)), columns(costs.reshape(-1, BLOCK)))
    return torch.cat([search_level(*part) for part in parts]).reshape(len(W), -1)


@dataclass(frozen=True)
class OneScale:
    """IQ4_NL: a scale for each 32 weights.

    >>> grid = OneScale()
    >>> W = 0.01 * torch.tensor([VALUES * 2])
    >>> p = grid.fit(W)
    >>> p["scale"]
    tensor([[0.0100]])
    >>> grid.encode(W, p)[0, :16].tolist() == list(range(16))
    True
    """

    bits: int = 4
    scale_dtype: torch.dtype = torch.float16

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """scale [n, k/32] as stored; and for `encode`, inverse."""
        d = scales_of(W, importance, around=BLOCK)
        return {"scale": stored_half(d), "inverse": inverse_of(d)}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest level of each weight, uint8 [n, k]."""
        return by_parts(lambda x, inverse: nearest_code(x * inverse), torch.uint8, blocks_of(W), p["inverse"])

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """d * v[q], float32 [n, k]."""
        return (_LEVELS[blocks_of(q).int()] * p["scale"][..., None]).flatten(1)


@dataclass(frozen=True)
class TwoScales:
    """IQ4_XS: a scale of 6 bits for each 32 weights, in units of a float16 for 256.

    The largest scale of the 256 becomes -32 units, so that d = -scale / 32. The codes are chosen for the scales that
    were rounded to whole units, though not for a d that was rounded to float16.
    """

    bits: int = 4
    scale_dtype: torch.dtype = torch.float16

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """d [n, k/256], scale uint8 [n, k/32] as stored; and for `encode`, inverse [n, k/32]."""
        blocks_of(W, SUPER)  # 256 must divide k
        found = scales_of(W, importance, around=SUPER).reshape(len(W), -1, SUPER // BLOCK)
        top = found.gather(-1, found.abs().argmax(-1, keepdim=True)) + 0.0  # of zeros 0, never -0
        d = -top / 32
        units = nearest_(found * inverse_of(d)).clamp_(-32, 31)
        scale, inverse = (units + 32).to(torch.uint8), inverse_of(d * units)
        return {"d": stored_half(d[..., 0]), "scale": scale.flatten(1), "inverse": inverse.flatten(1)}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest level of each weight, uint8 [n, k]."""
        return by_parts(lambda x, inverse: nearest_code(x * inverse), torch.uint8, blocks_of(W), p["inverse"])

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """d * (s - 32) * v[q], float32 [n, k]."""
        d = p["d"].repeat_interleave(SUPER // BLOCK, 1) * (p["scale"].float() - 32)
        return (_LEVELS[blocks_of(q).int()] * d[..., None]).flatten(1)


@dataclass(frozen=True)
class Iq4Xs:
    """The bytes of IQ4_XS: d 2 | scales_h 2 | scales_l 4 | qs 128."""

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"blocks": uint8 [n, 136 k / 256]}."""
        s = p["scale"].reshape(len(q), -1, 2, 4)
        high = ((s >> 4) << torch.tensor([0, 2, 4, 6], dtype=torch.uint8)).sum(-1, dtype=torch.uint8)
        pairs = (s & 15).reshape(len(q), -1, 4, 2)
        nibbles = join_nibbles(q.reshape(len(q), -1, SUPER // BLOCK, BLOCK)).flatten(2)
        return {
            "blocks": torch.cat([half_bytes(p["d"]), high, pairs[..., 0] | pairs[..., 1] << 4, nibbles], -1).flatten(1)
        }

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """Codes uint8 [n, k]; d [n, k/256], scale uint8 [n, k/32]."""
        d, high, low, qs = parts["blocks"].reshape(shape[0], -1, 136).split_with_sizes((2, 2, 4, 128), -1)
        s = torch.stack([low & 15, low >> 4], -1).flatten(-2)
        s |= ((high[..., None] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)) & 3).flatten(-2) << 4
        q = split_nibbles(qs.reshape(*qs.shape[:2], SUPER // BLOCK, 16))
        return q.reshape(shape), {"d": half_numbers(d), "scale": s.flatten(1)}


def _build(name: str, grid: OneScale | TwoScales, packing: Packing) -> Format:
    reference = Reference("llama.cpp", "llama-cpp-python 0.3.36", Fidelity.BIT_EXACT, f"{name} of ggml-quants.c")
    return Format(name, grid, packing, layout(name), reference, uses_importance=True)


BUILDERS = {
    "iq4_nl": lambda: _build("iq4_nl", OneScale(), Blocks(4)),
    "iq4_xs": lambda: _build("iq4_xs", TwoScales(), Iq4Xs()),
}
