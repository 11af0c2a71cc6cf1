"""How llama.cpp fits a scale **and a minimum** to a sub-block: the search of Q2_K, Q4_K and Q5_K.

A sub-block x of g weights is stored as points of a line over whole numbers q:

    w_hat = scale * q + low,   q in {0, 1, ..., nmax},   low <= 0

Given the codes q, the line of least weighted squared error sum w (x - scale q - low)^2 is linear regression:

    scale = (S_w S_xq - S_x S_q) / D        S_w = sum w      S_x = sum w x      S_q = sum w q
    low   = (S_qq S_x - S_q S_xq) / D       S_qq = sum w q^2        S_xq = sum w q x
    D     = S_w S_qq - S_q^2                (where low > 0: low = 0 and scale = S_xq / S_qq)

Given the line, the best codes are q = round((x - low) / scale). The two depend on each other, so llama.cpp starts from
the obvious scale, (max - min) / nmax, stretches it a little, rounds, fits the line, and keeps it if its error is
smaller than the best so far; then the next stretch. Each try rounds from the low of the best line so far, so the tries
cannot be made side by side; the blocks can.

**Bit for bit.** Which try wins is decided by the last bit of these sums. They are made as C makes them: in float32,
each product rounded before it is added, in the order of the block; all blocks at once, each a column of [g, blocks].
Three things to know: torch computes `15 / x` as 15 * (1 / x), so every division here is of two tensors; torch's float32
square root can be off in the last bit (`gguf_search.root` is not); and where C's way to round runs over, so does ours.

Which machine: llama.cpp for x86-64 (ggml-base is compiled without the instructions that fuse a * b + c) gives these
bytes. Where a compiler fuses them, as on every ARM, one last bit sends the search down another path: with bell-shaped
weights Q5_K and Q2_K store another line in about one super-block of four, Q4_K in one of sixteen, Q3_K and Q6_K in
fewer than one of two hundred; the squared error of the whole tensor differs by less than 1%.

Reference: llama.cpp, ggml-quants.c, `make_qkx2_quants`; `make_qkx3_quants` makes the same sums (release of
llama-cpp-python 0.3.36). Left out: `make_qkx1_quants`, which no format uses any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.formats.gguf_search import sum_in_order

_MAGIC = 12582912.0  # 1.5 * 2^23: float32 numbers of this size have no fraction
_REACH = 4194303.0  # 2^22 - 1: as far as the trick with _MAGIC reaches


def nearest_int(x: Tensor) -> Tensor:
    """C's way to round, int32: halves to even; from 2^22 on, whatever the 23 low bits happen to say.

    >>> nearest_int(torch.tensor([0.5, 1.5, -2.5, 6e6, torch.nan])).tolist()
    [0, 2, -2, -3291456, 0]
    """
    return ((x + _MAGIC).view(torch.int32) & 0x7FFFFF) - 0x400000


@dataclass(frozen=True)
class Stretch:
    """Scales to try for codes 0 to nmax: (max - min) / (nmax + first + i * step), i = 0 .. count - 1."""

    nmax: int
    first: float
    step: float
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        """nmax + first + i * step, float32, added in C's order."""
        return iter((self.first + self.step * torch.arange(self.count, dtype=torch.float32) + self.nmax).unbind())


class _Lines:
    """Codes, errors and regressions of x [g, blocks] with weights w, in memory that every try uses again."""

    def __init__(self, x: Tensor, w: Tensor, nmax: int, absolute: bool) -> None:
        self.x, self.w, self.nmax, self.absolute = x, w, nmax, absolute
        self.bottom, self.top = x.amin(0), x.amax(0)
        self.S_w, self.S_x = sum_in_order(w), sum_in_order(w * x)
        self.q, self.off = torch.empty_like(x), torch.empty_like(x)
        self.moments = x.new_empty(len(x), 3, x.shape[1])

    def round(self, inverse: Tensor, low: Tensor) -> Tensor:
        """q = round((x - low) * inverse) within 0 to nmax, as float32 [g, blocks]."""
        q = torch.sub(self.x, low, out=self.q).mul_(inverse)
        furthest = (self.bottom - low) * inverse  # from the top it is never further than nmax
        if (furthest.abs() <= _REACH).all():
            return q.round_().clamp_(0, self.nmax)
        return q.copy_(nearest_int(q).clamp_(0, self.nmax))

    def error(self, scale: Tensor, low: Tensor) -> Tensor:
        """sum w (scale q + low - x)^2, or sum w |scale q + low - x|; [blocks]."""
        off = torch.mul(self.q, scale, out=self.off).add_(low).sub_(self.x)
        off = off.abs_() if self.absolute else off.mul_(off)
        return sum_in_order(off.mul_(self.w))

    def regress(self) -> tuple[Tensor, Tensor, Tensor]:
        """(scale, low, D) of the line of least squares through the codes q; it is one only where D > 0."""
        wq, wqq, wqx = self.moments.unbind(1)
        torch.mul(self.w, self.q, out=wq)
        torch.mul(wq, self.q, out=wqq)
        torch.mul(wq, self.x, out=wqx)
        S_q, S_qq, S_xq = sum_in_order(self.moments)
        D = self.S_w * S_qq - S_q * S_q
        scale, low = (self.S_w * S_xq - self.S_x * S_q) / D, (S_qq * self.S_x - S_q * S_xq) / D
        return torch.where(low > 0, S_xq / S_qq, scale), low.clamp(max=0), D


def fit_line(x: Tensor, w: Tensor, tries: Stretch, absolute: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """llama.cpp's `make_qkx2_quants`: x ~ scale * q + low.

    x, w [g, blocks] float32, contiguous; `absolute` compares the tries by absolute errors. Returns (scale [blocks],
    low [blocks] <= 0, codes uint8 [g, blocks]). A block of equal weights has scale 0 and codes 0.

    >>> x = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    >>> scale, low, codes = fit_line(x, torch.ones_like(x), Stretch(3, first=-0.5, step=0.1, count=16))
    >>> scale, low, codes.flatten()
    (tensor([1.]), tensor([-1.]), tensor([0, 1, 2, 3], dtype=torch.uint8))
    """
    lines = _Lines(x, w, tries.nmax, absolute)
    low = lines.bottom.clamp(max=0)
    flat = lines.top == low
    top = torch.where(flat, low + 1, lines.top)  # any span will do for a flat block: its codes are 0, and no try wins

    inverse, start = torch.tensor(float(tries.nmax)) / (top - low), low
    lines.round(inverse, low)
    scale = 1 / inverse
    best = lines.error(scale, low)
    for levels in tries:
        inverse_now = levels / (top - low)
        lines.round(inverse_now, low)
        scale_now, low_now, D = lines.regress()
        error = lines.error(scale_now, low_now)
        wins = (D > 0) & (error < best)
        best, scale = torch.where(wins, error, best), torch.where(wins, scale_now, scale)
        inverse, start = torch.where(wins, inverse_now, inverse), torch.where(wins, low, start)
        low = torch.where(wins, low_now, low)
    return scale.masked_fill(flat, 0), low, lines.round(inverse, start).to(torch.uint8)
