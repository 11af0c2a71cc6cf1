"""llama.cpp's first block formats: Q4_0, Q5_0, Q8_0 (a scale) and Q4_1, Q5_1 (a scale and a minimum) for 32 weights.

    Q4_0, Q5_0    w_hat = d (q - middle)    middle = 8, 16;  d = w_max / -middle,   q = round_up(w / d) + middle
    Q8_0          w_hat = d q               d = max|w| / 127,                       q = round(w / d), -127 to 127
    Q4_1, Q5_1    w_hat = d q + m           m = min,  d = (max - min) / 15 or 31,   q = round_up((w - m) / d)

w_max is the weight of largest magnitude *with its sign*: it lands on code 0, level -8 exactly. The other side ends at
+7, so a scale may be negative. The codes are chosen with 1/d before d is rounded to float16 ("inverse", no part of what
is stored). Three ways to round live in these ten lines: halves up in Q4_0 to Q5_1, halves away from zero in Q8_0, and

with an **importance matrix** (not Q8_0) scale, or scale and minimum, are searched (`gguf_search`), halves to even.

Corners, as the C code has them. A block of zeros has code 8 (16), the middle; with importance, code 0. A block so small
that 1/d is infinite (below about 1e-38) has codes 0, since C casts an infinite number to them; d is then 0 anyway.

Reference: llama.cpp, ggml-quants.c, `quantize_row_q4_0_ref` to `quantize_row_q8_0_ref`, `quantize_row_q4_0_impl` to
`quantize_row_q5_1_impl` (release of llama-cpp-python 0.3.36), byte for byte; gguf 0.19's `quants.quantize` gives the
same bytes without importance. Where llama.cpp stores an infinite scale, this raises ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Packing, Params, Reference
from quantlab.formats.gguf_blocks import Blocks, blocks_of, by_parts, stored_half
from quantlab.formats.gguf_search import chunks, columns, importance_weights, nearest_, search_scale
from quantlab.formats.gguf_search_min import Stretch, fit_line
from quantlab.layout import layout

_JUST_BELOW_HALF = 0.5 - 2.0**-25  # float32: 0.49999997 + this is below 1, 0.49999997 + 0.5 is rounded to 1


def signed_largest(x: Tensor) -> Tensor:
    """The weight of largest magnitude of each block with its sign, the first of equals; x [..., g] -> [...].

    >>> signed_largest(torch.tensor([[1.0, -3.0, 2.0], [-2.0, 2.0, 0.0]]))
    tensor([-3., -2.])
    """
    high, low = x.amax(-1), x.amin(-1)
    largest = torch.where(high > -low, high, low)
    if (tie := high == -low).any():
        first = x[tie].abs().argmax(-1, keepdim=True)
        largest[tie] = x[tie].gather(-1, first)[..., 0]
    return largest.float() + 0.0  # of a block of zeros 0, never -0


def first_zero(x: Tensor, low: Tensor) -> Tensor:
    """Minima [n, b] of blocks x [n, b, g]; a minimum of zero with the sign of the block's first zero, as in C.

    >>> first_zero(torch.tensor([[[1.0, -0.0, 0.0]]]), torch.tensor([[0.0]]))
    tensor([[-0.]])
    """
    if not (zero := low == 0).any():
        return low
    some = x[zero]
    first = some.gather(-1, (some == 0).to(torch.uint8).argmax(-1, keepdim=True))[..., 0]
    return low.masked_scatter(zero, torch.where(first == 0, first, 0).float())


def inverse_of(d: Tensor) -> Tensor:
    """1/d, and 0 where d is 0.

    >>> inverse_of(torch.tensor([4.0, 0.0]))
    tensor([0.2500, 0.0000])
    """
    return d.reciprocal().masked_fill_(d == 0, 0)


def zero_where_(mask: Tensor, q: Tensor) -> Tensor:
    """Codes 0 where `mask` says so, in place; it rarely does, and looking is cheaper than filling."""
    return q.masked_fill_(mask, 0) if mask.any() else q


@dataclass(frozen=True)
class Centred:
    """Q4_0 and Q5_0: levels d * (-middle .. middle - 1).

    >>> grid = Centred(bits=4)
    >>> W = torch.linspace(-2, 1.9, 32)[None]
    >>> p = grid.fit(W)
    >>> p["scale"]
    tensor([[0.2500]])
    >>> grid.encode(W, p)[0, [0, 16, 31]].tolist()
    [0, 8, 15]
    """

    bits: int
    scale_dtype: torch.dtype = torch.float16

    @property
    def _middle(self) -> int:
        return int(2 ** (self.bits - 1))

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """scale [n, k/32] as stored; and for `encode`, inverse (or searched: the inverse found by search)."""
        x = blocks_of(W)
        if importance is not None:
            costs = importance_weights(W, importance).reshape(x.shape)
            scale, inverse, _ = search_scale(x, self._middle, costs)
            return {"scale": stored_half(scale), "searched": inverse}
        d = signed_largest(x) / -self._middle
        return {"scale": stored_half(d), "inverse": inverse_of(d)}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """Codes uint8 [n, k], 0 to 2 middle - 1."""
        x, middle, top = blocks_of(W), self._middle, 2 * self._middle - 1

        def half_up(part: Tensor, inverse: Tensor) -> Tensor:
            q = (part * inverse).add_(middle + 0.5).clamp_(max=top)  # converting to uint8 cuts the fraction off
            return zero_where_(inverse.isinf(), q)

        def half_even(part: Tensor, inverse: Tensor) -> Tensor:
            q = nearest_(part * inverse).clamp_(-middle, middle - 1).add_(middle)
            return zero_where_(inverse == 0, q)

        if "searched" in p:
            return by_parts(half_even, torch.uint8, x, p["searched"])
        return by_parts(half_up, torch.uint8, x, p["inverse"])

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """d (q - middle), float32 [n, k]."""
        return ((blocks_of(q).float() - self._middle) * p["scale"][..., None]).flatten(1)


@dataclass(frozen=True)
class FromMinimum:
    """Q4_1 and Q5_1: levels m + d * (0 .. 2^bits - 1).

    >>> grid = FromMinimum(bits=4)
    >>> p = grid.fit(torch.linspace(1, 4.75, 32)[None])
    >>> p["scale"], p["min"]
    (tensor([[0.2500]]), tensor([[1.]]))
    """

    bits: int
    scale_dtype: torch.dtype = torch.float16

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """scale, min [n, k/32] as stored; and for `encode`, inverse and start (with importance: the codes found)."""
        x, top = blocks_of(W), 2**self.bits - 1
        if importance is not None:
            return self._search(x, importance_weights(W, importance))
        low = first_zero(x, x.amin(-1).float())
        d = (x.amax(-1).float() - low).abs() / top  # of 0 and -0 the difference is 0
        return {"scale": stored_half(d), "min": stored_half(low), "inverse": inverse_of(d), "start": low}

    def _search(self, x: Tensor, costs: Tensor) -> Params:
        tries = Stretch(2**self.bits - 1, first=-0.9, step=0.05, count=37)
        whole = columns(x.float()), columns(costs.reshape(x.shape))
        found = [fit_line(part.contiguous(), w.contiguous(), tries) for part, w in chunks(*whole)]
        scale, low, codes = (torch.cat(each, -1).t() for each in zip(*found, strict=True))
        scale, low = scale.reshape(x.shape[:2]), low.reshape(x.shape[:2])
        low = torch.where(scale == 0, first_zero(x, low), low)
        return {"scale": stored_half(scale), "min": stored_half(low), "searched": codes.reshape(len(x), -1)}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """Codes uint8 [n, k], 0 to 2^bits - 1; those that the search found, where there was one."""
        x, top = blocks_of(W), 2**self.bits - 1
        if "searched" in p:
            return p["searched"]

        def half_up(part: Tensor, inverse: Tensor, start: Tensor) -> Tensor:
            q = (part - start).mul_(inverse).add_(0.5).clamp_(max=top)
            return zero_where_(inverse.isinf(), q)

        return by_parts(half_up, torch.uint8, x, p["inverse"], p["start"])

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """d q + m, float32 [n, k]; d q is exact, so it does not matter whether the machine fuses the two."""
        return (blocks_of(q) * p["scale"][..., None] + p["min"][..., None]).flatten(1)


@dataclass(frozen=True)
class Whole:
    """Q8_0: levels d * (-127 .. 127), codes as int8.

    >>> grid = Whole()
    >>> W = torch.linspace(-12.7, 12.7, 32)[None]
    >>> grid.encode(W, grid.fit(W))[0, [0, 31]].tolist()
    [-127, 127]
    """

    bits: int = 8
    scale_dtype: torch.dtype = torch.float16

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """scale [n, k/32] as stored; and for `encode`, inverse."""
        x = blocks_of(W)
        d = torch.maximum(x.amax(-1), -x.amin(-1)).float().abs() / 127
        return {"scale": stored_half(d), "inverse": inverse_of(d)}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """Codes int8 [n, k], halves away from zero."""
        below = torch.tensor(_JUST_BELOW_HALF)

        def half_away(part: Tensor, inverse: Tensor) -> Tensor:
            q = part * inverse
            return zero_where_(inverse.isinf(), q.add_(torch.copysign(below, q)))  # int8 cuts the fraction off

        return by_parts(half_away, torch.int8, blocks_of(W), p["inverse"])

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """d q, float32 [n, k]."""
        return (blocks_of(q) * p["scale"][..., None]).flatten(1)


def _build(name: str, grid: Centred | FromMinimum | Whole, packing: Packing) -> Format:
    reference = Reference("llama.cpp", "llama-cpp-python 0.3.36", Fidelity.BIT_EXACT, f"{name} of ggml-quants.c")
    return Format(name, grid, packing, layout(name), reference, uses_importance=name != "q8_0")


BUILDERS = {
    "q4_0": lambda: _build("q4_0", Centred(4), Blocks(4)),
    "q4_1": lambda: _build("q4_1", FromMinimum(4), Blocks(4, minimum=True)),
    "q5_0": lambda: _build("q5_0", Centred(5), Blocks(5)),
    "q5_1": lambda: _build("q5_1", FromMinimum(5), Blocks(5, minimum=True)),
    "q8_0": lambda: _build("q8_0", Whole(), Blocks(8)),
}
