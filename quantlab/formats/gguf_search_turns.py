"""How llama.cpp rounds numbers to whole multiples of one unit, and improves the multiples in turns.

The scales of a super-block have to become small whole numbers too: x ~ unit * q, for the 8 or 16 scales x. Without an
importance matrix the largest scale becomes the largest whole number (`share_largest`). With one, llama.cpp searches
(`share_scale`): a few units around that one, then **turns**. The weights of Q3_K are found in turns as well
(`fit_symmetric`).

A turn takes one number x_i out of the two sums that make the best unit, S_xq / S_qq with S_xq = sum w x q and
S_qq = sum w q^2. The others would like the unit S'_xq / S'_qq, for which x_i is best rounded to

    q_i = round(x_i S'_qq / S'_xq)

and that code is kept if it makes S_xq^2 / S_qq larger, which is what the fit gains: sum w x^2 - S_xq^2 / S_qq is the
error that remains. Everybody has a turn, up to five times, until nobody changes. This is coordinate descent.

Bit for bit, and on which machines, as in `gguf_search_min`.

Reference: llama.cpp, ggml-quants.c, `make_qp_quants`, `make_q3_quants` (release of llama-cpp-python 0.3.36).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantlab.formats.gguf_search import SMALLEST, largest, sum_in_order
from quantlab.formats.gguf_search_min import nearest_int


def share_largest(x: Tensor, nmax: int) -> tuple[Tensor, Tensor]:
    """x [b, blocks] as multiples of the largest / nmax: (unit [blocks], codes uint8 [b, blocks]).

    Below zero (rounding noise can make the scale of almost equal weights negative) a code wraps: -1 is 255, as in C.

    >>> unit, codes = share_largest(torch.tensor([[1.0], [2.0], [3.1]]), nmax=15)
    >>> codes.flatten()
    tensor([ 5, 10, 15], dtype=torch.uint8)
    """
    top = x.amax(0).clamp(min=0).abs()  # a zero without a sign
    levels = torch.tensor(float(nmax))
    inverse = torch.where(top > 0, levels / top, 0)
    return top / levels, (nearest_int(inverse * x) & 0xFF).to(torch.uint8)


def share_scale(x: Tensor, w: Tensor, nmax: int) -> tuple[Tensor, Tensor]:
    """llama.cpp's `make_qp_quants`: x ~ unit * q for x >= 0, codes 0 to nmax, errors weighted by w.

    x, w [b, blocks]; returns (unit [blocks], codes uint8 [b, blocks]). Tries nine units, then takes turns.

    >>> unit, codes = share_scale(torch.tensor([[1.0], [2.0], [3.1]]), torch.ones(3, 1), nmax=15)
    >>> unit, codes.flatten()
    (tensor([0.2043]), tensor([ 5, 10, 15], dtype=torch.uint8))
    """
    top = x.amax(0)
    zero = ~(top >= SMALLEST)
    top = top.masked_fill(zero, 1)
    levels, step = torch.tensor(float(nmax)), torch.tensor(0.1)

    def error(inverse: Tensor, q: Tensor) -> Tensor:
        off = x - q * (1 / inverse)
        return sum_in_order(w * off * off)

    inverse = levels / top
    best = error(inverse, nearest_int(inverse * x) & 0xFF)
    for i in (-4, -3, -2, -1, 1, 2, 3, 4):
        inverse_now = (step * i + levels) / top
        loss = error(inverse_now, nearest_int(inverse_now * x).clamp_(max=nmax))
        wins = loss < best
        best, inverse = torch.where(wins, loss, best), torch.where(wins, inverse_now, inverse)
    unit, q = take_turns(x, w, inverse, (-math.inf, nmax), unsigned=True)
    return unit.masked_fill(zero, 0), q.masked_fill(zero, 0).to(torch.uint8)


def fit_symmetric(x: Tensor, nmax: int) -> tuple[Tensor, Tensor]:
    """llama.cpp's `make_q3_quants`: x ~ scale * (code - nmax), errors weighted by x^2.

    x [g, blocks]; returns (scale [blocks], codes 0 to 2 nmax - 1 as uint8 [g, blocks]). A block of zeros has codes 0.

    A curiosity: q starts as round(-nmax x / largest), so where the largest weight is positive every x q, and S_xq, is
    negative; and turns are taken only where S'_xq > 0. About half of all blocks are never improved.

    >>> scale, codes = fit_symmetric(torch.tensor([[-4.0], [1.0], [2.9]]), 4)
    >>> codes.flatten()
    tensor([0, 5, 7], dtype=torch.uint8)
    """
    top = largest(x)
    zero = top.abs() < SMALLEST
    inverse = torch.tensor(-float(nmax)) / top.masked_fill(zero, 1)
    scale, q = take_turns(x, x * x, inverse, (-nmax, nmax - 1), unsigned=False)
    return scale.masked_fill(zero, 0), (q + nmax).masked_fill_(zero, 0).to(torch.uint8)


def take_turns(
    x: Tensor, w: Tensor, inverse: Tensor, span: tuple[float, float], *, unsigned: bool
) -> tuple[Tensor, Tensor]:
    """From q = round(x * inverse) within `span`, up to five turns each: (unit [blocks], q as float32 [g, blocks]).

    C keeps `unsigned` codes in a byte, where -1 becomes 255, and skips a turn where rounding made S'_qq <= 0.
    """
    least = 0.0 if unsigned else -math.inf

    def kept(q: Tensor) -> Tensor:
        return q.remainder(256) if unsigned else q

    wx = w * x
    q = nearest_int(inverse * x).float().clamp_(*span)
    S_xq, S_qq = sum_in_order(wx * q), sum_in_order(w * q * q)
    q = kept(q)
    for _ in range(5):
        changed = False
        for x_i, w_i, wx_i, q_i in zip(x, w, wx, q, strict=True):
            xq, qq = S_xq - wx_i * q_i, S_qq - w_i * q_i * q_i
            new = nearest_int(x_i * qq / xq).float().clamp_(*span)
            turn = (xq > 0) & (qq > least) & (new != q_i)
            xq, qq = xq + wx_i * new, qq + w_i * new * new
            turn &= (qq > 0) & (xq * xq * S_qq > S_xq * S_xq * qq)
            if turn.any():
                changed = True
                S_xq, S_qq = torch.where(turn, xq, S_xq), torch.where(turn, qq, S_qq)
                q_i.copy_(torch.where(turn, kept(new), q_i))
        if not changed:
            break
    return torch.where(S_qq > 0, S_xq / S_qq, 0.0), q
