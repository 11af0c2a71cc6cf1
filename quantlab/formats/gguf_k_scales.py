"""llama.cpp's K-quants without a minimum: Q3_K and Q6_K.

    w_hat = (d * s) * (q - middle),   middle = 2^(bits - 1)

q is the code of a weight (3 or 6 bits); s is a whole number with a sign for each sub-block of 16 weights (6 or 8 bits);
d is one float16 for a super-block of 256. Three steps, each undoing a bit of the last:

1. fit a scale to each sub-block, sign and all, so that its largest weight lies near the lowest level, which has no
   counterpart at the top (`gguf_search.search_scale`; in Q3_K without importance `gguf_search_turns.fit_symmetric`);
2. round the scales of a super-block to whole multiples s of d. The largest gets the lowest whole number; in Q3_K with
   importance d is searched as well, by what errors cost in each sub-block;
3. round each weight again, for the scale that is really stored: q = round(w / (d s)) + middle.

What an error costs in step 1 is x^2 without importance. With importance Q [k], the mean square of each input, it is
Q in Q6_K, and Q sqrt(2 mean x^2 + x^2) in Q3_K (the mean over the super-block).

Where the stored scale is zero, step 3 has nothing to divide by and the codes of step 1 stay; they decode to zero
whatever they are. "searched" hands them from `fit` to `encode`: they are no part of what is stored.

Reference: llama.cpp, ggml-quants.c, `quantize_row_q3_K_ref`, `quantize_row_q6_K_impl` and so on (release of
llama-cpp-python 0.3.36), byte for byte. Where its d would become infinite, this raises ValueError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Packing, Params, Reference
from quantlab.formats.gguf_k_bytes import Q3K, Q6K
from quantlab.formats.gguf_k_super import SUPER, by_parts, columns, importance_blocks, stored_half, super_blocks
from quantlab.formats.gguf_search import SMALLEST, largest, root, search_scale, sum_in_order
from quantlab.formats.gguf_search_min import nearest_int
from quantlab.formats.gguf_search_turns import fit_symmetric
from quantlab.layout import layout

SUB = 16  # weights in a sub-block


@dataclass(frozen=True)
class Scales(ABC):
    """Levels -2^(bits-1) .. 2^(bits-1) - 1 times a scale for each 16 weights; the scales have `scale_bits` bits.

    >>> grid = BUILDERS["q6_k"]().grid
    >>> p = grid.fit(torch.linspace(-1, 1, 256)[None])
    >>> {name: list(value.shape) for name, value in p.items()}
    {'d': [1, 1], 'scale': [1, 16], 'searched': [1, 256]}
    >>> p["scale"][0, ::5]  # the largest is the lowest
    tensor([ 127,   48,  -48, -128], dtype=torch.int8)
    """

    bits: int
    scale_bits: int
    scale_dtype: torch.dtype = torch.float16

    @property
    def middle(self) -> int:
        """The code of zero."""
        return int(2 ** (self.bits - 1))

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """d [n, k/256]; scale int8 [n, k/16]; searched uint8 [n, k], for `encode` alone."""
        blocks = super_blocks(W)
        if importance is None:
            found = by_parts(self._fit, blocks)
        else:
            found = by_parts(self._fit, blocks, importance_blocks(importance, len(W)))
        names = ("d", "scale", "searched")
        return {name: part.reshape(len(W), -1) for name, part in zip(names, found, strict=True)}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest level of each weight for the stored scales, uint8 [n, k]."""
        blocks, scale = super_blocks(W), self._scales(p)
        searched = p.get("searched", torch.zeros(1, dtype=torch.uint8).expand(W.shape))
        (q,) = by_parts(self._encode, blocks, *(each.reshape(len(blocks), -1) for each in (scale, searched)))
        return q.reshape(W.shape)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """d s (q - middle), float32 [n, k]."""
        level = q.to(torch.int8) - self.middle
        return (level.reshape(len(q), -1, SUB) * self._scales(p)[..., None]).flatten(1)

    def _scales(self, p: Params) -> Tensor:
        """d s of each sub-block, [n, k/16]."""
        return p["d"].repeat_interleave(SUPER // SUB, 1) * p["scale"]

    @abstractmethod
    def _fit(self, blocks: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(d [S], s [S, 16], searched [S, 256]) of super-blocks [S, 256], and of their importance."""

    def _encode(self, blocks: Tensor, scale: Tensor, searched: Tensor) -> tuple[Tensor]:
        """q = round(w / scale) + middle of super-blocks [S, 256]; scale [S, 16]."""
        x = blocks.float().reshape(*scale.shape, SUB)
        zero = scale[..., None] == 0
        q = nearest_int(x / scale[..., None].masked_fill(zero, 1)).clamp_(-self.middle, self.middle - 1) + self.middle
        return (torch.where(zero, searched.reshape(q.shape), q.to(torch.uint8)).flatten(1),)


def multiples_of_largest(scale: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scales [S, 16] as whole multiples of d, the largest being -2^(bits-1): (d [S], multiples [S, 16] int8)."""
    middle = 2 ** (bits - 1)
    top = largest(scale.t())
    inverse = torch.tensor(-float(middle)) / top.masked_fill(top == 0, 1)
    multiples = nearest_int(inverse[:, None] * scale).clamp_(-middle, middle - 1)
    return torch.where(top == 0, 0.0, 1 / inverse), multiples.to(torch.int8)


@dataclass(frozen=True)
class Q6KScales(Scales):
    """Q6_K: the importance itself is the cost; a super-block of scales below 1e-15 is stored as zeros."""

    def _fit(self, blocks: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        x = blocks.float().reshape(-1, SUPER // SUB, SUB)
        scale, _, searched = search_scale(x, self.middle, None if importance is None else importance.reshape(x.shape))
        nothing = scale.abs().amax(1, keepdim=True) < SMALLEST
        d, s = multiples_of_largest(scale.masked_fill(nothing, 0), self.scale_bits)
        return stored_half(d), s, searched.flatten(1).masked_fill(nothing, 0)


@dataclass(frozen=True)
class Q3KScales(Scales):
    """Q3_K: codes found in turns without importance; with it, two searches, one on top of the other."""

    def _fit(self, blocks: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        x = blocks.float()
        if importance is None:
            scale, searched = fit_symmetric(columns(x, SUB), self.middle)
            scale = scale.reshape(-1, SUPER // SUB)
            d, s = multiples_of_largest(scale, self.scale_bits)
            s = s.masked_fill((scale == 0).all(1, keepdim=True), -32)  # C leaves the bytes of such scales at zero
            return stored_half(d), s, searched.t().reshape(-1, SUPER)
        sigma2 = 2 * sum_in_order(columns(x * x, SUPER)) / SUPER
        w = importance * root(sigma2[:, None] + x * x)
        cost = sum_in_order(columns(w, SUB)).reshape(-1, SUPER // SUB)
        x, w = x.reshape(-1, SUPER // SUB, SUB), w.reshape(-1, SUPER // SUB, SUB)
        scale, _, searched = search_scale(x, self.middle, w)
        d, _, s = search_scale(scale, 2 ** (self.scale_bits - 1), cost)
        return stored_half(d), s.to(torch.int8) - 32, searched.flatten(1)


def _build(name: str, grid: Scales, packing: Packing) -> Format:
    reference = Reference("llama.cpp", "llama-cpp-python 0.3.36", Fidelity.BIT_EXACT, f"{name} of ggml-quants.c")
    return Format(name, grid, packing, layout(name), reference, uses_importance=True)


BUILDERS = {
    "q3_k": lambda: _build("q3_k", Q3KScales(3, 6), Q3K()),
    "q6_k": lambda: _build("q6_k", Q6KScales(6, 8), Q6K()),
}
