"""llama.cpp's K-quants with a minimum: Q2_K, Q4_K and Q5_K.

    w_hat = (d * s) * q - (dmin * m)

q is the code of a weight (2, 4 or 5 bits); s and m are whole numbers for each sub-block (4 bits and 16 weights in Q2_K,
6 bits and 32 weights in the others); d and dmin are two float16 for a super-block of 256. So a sub-block has a scale
and a minimum of its own for half a bit a weight: that is what the two levels buy.

Three steps, each undoing a bit of the last:

1. fit a line, scale and low, to each sub-block (`gguf_search_min.fit_line`);
2. round the scales, and the lows, of a super-block to whole multiples s and m of two shared numbers d and dmin;
3. round each weight again, for the line that is really stored: q = round((w + dmin m) / (d s)).

What an error costs in step 1 (x is the sub-block; Q an importance [k], the mean square of each input; sums over 256):

    without importance    Q4_K, Q5_K  sqrt(mean x^2) + |x|        Q2_K  |x|, and errors not squared
    with importance       Q sqrt(sigma2 + x^2),   sigma2 = mean x^2 of the super-block (twice that in Q4_K, Q5_K)

With importance, step 2 is a search too (`gguf_search_turns.share_scale`), weighted by the costs of each sub-block.

Where the stored scale is zero, step 3 has nothing to divide by and the codes of step 1 stay; they decode to -dmin m
whatever they are. "searched" hands them from `fit` to `encode`: they are no part of what is stored.

Reference: llama.cpp, ggml-quants.c, `quantize_row_q2_K_ref`, `quantize_row_q2_K_impl` and so on (release of
llama-cpp-python 0.3.36), byte for byte. Where its d or dmin would become infinite, this raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Packing, Params, Reference
from quantlab.formats.gguf_k_bytes import Q2K, Q4K, Q5K, join, join_six, split, split_six
from quantlab.formats.gguf_k_super import SUPER, by_parts, columns, importance_blocks, stored_half, super_blocks
from quantlab.formats.gguf_search import root, sum_in_order
from quantlab.formats.gguf_search_min import Stretch, fit_line, nearest_int
from quantlab.formats.gguf_search_turns import share_largest, share_scale
from quantlab.layout import layout


def level_and_size(x: Tensor) -> Tensor:
    """What an error costs in Q4_K and Q5_K: sqrt(mean x^2) + |x|; x [g, blocks]."""
    return root(sum_in_order(x * x) / len(x)) + x.abs()


@dataclass(frozen=True)
class Lines:
    """A line for each sub-block of `sub` weights; its scale and minimum are whole numbers of `scale_bits` bits.

    >>> grid = BUILDERS["q4_k"]().grid
    >>> p = grid.fit(torch.linspace(-1, 1, 256)[None])
    >>> {name: list(value.shape) for name, value in p.items()}
    {'d': [1, 1], 'dmin': [1, 1], 'scale': [1, 8], 'min': [1, 8], 'searched': [1, 256]}
    >>> p["min"]  # a line never starts above zero
    tensor([[63, 47, 31, 15,  0,  0,  0,  0]], dtype=torch.uint8)
    """

    bits: int
    sub: int
    scale_bits: int
    tries: Stretch
    cost: Callable[[Tensor], Tensor] = level_and_size
    absolute: bool = False  # without importance: errors not squared
    sigma: int = 2  # with importance: how often the mean square goes into sigma2
    clamps: bool = True  # with importance: a scale too large for its bits is cut to the largest
    scale_dtype: torch.dtype = torch.float16

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """d, dmin [n, k/256]; scale, min uint8 [n, k/sub]; searched uint8 [n, k], for `encode` alone."""
        blocks = super_blocks(W)
        if importance is None:
            found = by_parts(self._fit, blocks)
        else:
            found = by_parts(self._fit_weighted, blocks, importance_blocks(importance, len(W)))
        names = ("d", "dmin", "scale", "min", "searched")
        return {name: part.reshape(len(W), -1) for name, part in zip(names, found, strict=True)}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest level of each weight on the stored lines, uint8 [n, k]."""
        blocks, (scale, low) = super_blocks(W), self._lines(p)
        searched = p.get("searched", torch.zeros(1, dtype=torch.uint8).expand(W.shape))
        (q,) = by_parts(self._encode, blocks, *(each.reshape(len(blocks), -1) for each in (scale, low, searched)))
        return q.reshape(W.shape)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """d s q - dmin m, float32 [n, k]."""
        scale, low = self._lines(p)
        return (q.reshape(*scale.shape, self.sub) * scale[..., None] - low[..., None]).flatten(1)

    def _lines(self, p: Params) -> tuple[Tensor, Tensor]:
        """d s and dmin m of each sub-block, [n, k/sub] each."""
        times = SUPER // self.sub
        d, dmin = (p[name].repeat_interleave(times, 1) for name in ("d", "dmin"))
        return d * p["scale"], dmin * p["min"]

    def _fit(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """Without importance: the largest scale and the deepest low of a super-block become the top codes."""
        x = columns(blocks.float(), self.sub)
        scale, low, searched = fit_line(x, self.cost(x), self.tries, self.absolute)
        top = 2**self.scale_bits - 1
        d, s = share_largest(self._together(scale), top)
        dmin, m = share_largest(self._together(-low), top)
        return self._stored(d, dmin, s, m, searched, clamps=self.scale_bits == 6)

    def _fit_weighted(self, blocks: Tensor, importance: Tensor) -> tuple[Tensor, ...]:
        """With importance: d and dmin are searched too, by what errors cost in each sub-block."""
        blocks = blocks.float()
        sigma2 = self.sigma * sum_in_order(columns(blocks * blocks, SUPER)) / SUPER
        x, w = columns(blocks, self.sub), importance * root(sigma2[:, None] + blocks * blocks)
        w = columns(w, self.sub)
        scale, low, searched = fit_line(x, w, Stretch(self.tries.nmax, first=-0.9, step=0.05, count=37))
        top, cost = 2**self.scale_bits - 1, self._together(sum_in_order(w))
        d, s = share_scale(self._together(scale), cost, top)
        dmin, m = share_scale(self._together(-low), cost, top)
        return self._stored(d, dmin, s, m, searched, clamps=self.clamps)

    def _together(self, each: Tensor) -> Tensor:
        """A number of each sub-block [S b] -> [b, S], the super-blocks side by side."""
        return each.reshape(-1, SUPER // self.sub).t().contiguous()

    def _stored(
        self, d: Tensor, dmin: Tensor, s: Tensor, m: Tensor, searched: Tensor, *, clamps: bool
    ) -> tuple[Tensor, ...]:
        """As they are stored: C reads s and m back from their bytes, where bits that one has too many spill over."""
        s, m = s.t(), m.t()
        if self.scale_bits == 4:
            s, m = split(join(torch.stack([s, m], 1), 4), 4, 2).unbind(1)
        else:
            s, m = split_six(join_six(*((s.clamp(max=63), m.clamp(max=63)) if clamps else (s, m))))
        return stored_half(d), stored_half(dmin), s, m, searched.t().reshape(-1, SUPER)

    def _encode(self, blocks: Tensor, scale: Tensor, low: Tensor, searched: Tensor) -> tuple[Tensor]:
        """q = round((w + low) / scale) of super-blocks [S, 256]; scale, low [S, b]."""
        x = blocks.float().reshape(*scale.shape, self.sub)
        zero = scale[..., None] == 0
        q = nearest_int((x + low[..., None]) / scale[..., None].masked_fill(zero, 1)).clamp_(0, 2**self.bits - 1)
        return (torch.where(zero, searched.reshape(q.shape), q.to(torch.uint8)).flatten(1),)


_Q4K = Lines(4, 32, 6, Stretch(15, first=-1.0, step=0.1, count=21), clamps=False)
_Q5K = Lines(5, 32, 6, Stretch(31, first=-0.5, step=0.1, count=16))
_Q2K = Lines(2, 16, 4, Stretch(3, first=-0.5, step=0.1, count=16), torch.abs, absolute=True, sigma=1)


def _build(name: str, grid: Lines, packing: Packing) -> Format:
    reference = Reference("llama.cpp", "llama-cpp-python 0.3.36", Fidelity.BIT_EXACT, f"{name} of ggml-quants.c")
    return Format(name, grid, packing, layout(name), reference, uses_importance=True)


BUILDERS = {
    "q2_k": lambda: _build("q2_k", _Q2K, Q2K()),
    "q4_k": lambda: _build("q4_k", _Q4K, Q4K()),
    "q5_k": lambda: _build("q5_k", _Q5K, Q5K()),
}
