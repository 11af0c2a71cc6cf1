"""How llama.cpp searches the scale of a block: try several, keep the one that fits best; the same bits as its C code.

A block x of g weights becomes w_hat = d * l with whole numbers l. Given the numbers l, the scale of least weighted
squared error sum w (x - d l)^2 is a division, and the error it leaves is smaller the larger its gain:

    d = sum(w x l) / sum(w l^2)          gain = sum(w x l)^2 / sum(w l^2)

Given the scale, the best numbers are l = round(x / d). The two depend on each other, so llama.cpp tries a few inverse
scales around the obvious one (the outermost weight exactly on the outermost level), rounds, and compares the gains.

The weights w say what an error costs. Without calibration w = x^2: large weights count more. With an importance matrix
(the mean square of each input, Q), w = Q sqrt(s^2 + x^2), where s^2 is the mean square of the weights of the row.

**Bit for bit.** A near-tie between two candidates is decided by the last bit of these sums, so they are made as C makes
them: in float32, one product after the other along the block; all blocks at once. llama-cpp-python compiles ggml-base
for plain x86-64, where a * b + c is rounded twice, as here. A compiler that fuses the two (GCC on ARM, or x86-64 with
-march=native) rounds once, and some near-ties fall to the other side: of bell-shaped weights at most one block in fifty
gets another scale or code (one in five hundred in IQ4_NL and IQ4_XS; none in Q4_0 to Q8_0 without importance), and the
squared error of the tensor moves by less than one part in ten thousand.

Reference: llama.cpp, ggml-quants.c, `make_qx_quants`, `quantize_row_q4_0_impl` (release of llama-cpp-python 0.3.36).
Left out: its `rmse_type` other than 1, which none of these formats uses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

SMALLEST = 1e-15  # a block whose largest weight is below this is all zeros to llama.cpp (GROUP_MAX_EPS)
_NO_FRACTION = 1.5 * 2**23
AT_ONCE = 2**14  # blocks searched together: long enough to be fast, short enough for the cache

Sums = Callable[[Tensor], tuple[Tensor, Tensor]]


def nearest_(x: Tensor) -> Tensor:
    """The nearest whole number, halves to the even one, in place; |x| below 2^22.

    llama.cpp's `nearest_int`: beyond 2^23 float32 has no digits left for a fraction, so adding 1.5 * 2^23 and taking it
    off again is the processor's own rounding, which is to even.

    >>> nearest_(torch.tensor([0.5, 1.5, 2.5, -1.2]))
    tensor([ 0.,  2.,  2., -1.])
    """
    return x.add_(_NO_FRACTION).sub_(_NO_FRACTION)


def sum_in_order(terms: Tensor) -> Tensor:
    """Sum over the first dimension, [g, ...] -> [...], one term after the other as a loop in C does.

    `Tensor.sum` adds pairs of pairs: closer to the true sum, and another last bit.

    >>> sum_in_order(torch.tensor([1e8, 1.0, -1e8]))  # the 1 is lost at once
    tensor(0.)
    """
    total = torch.zeros_like(terms[0])
    for term in terms:
        total += term
    return total


def columns(x: Tensor) -> Tensor:
    """Blocks [..., g] as columns [g, blocks], contiguous: what is summed lies one row below the other."""
    return x.reshape(-1, x.shape[-1]).t().contiguous()


def largest(x: Tensor) -> Tensor:
    """The weight of largest magnitude of each column with its sign, the first of equals; x [g, blocks] -> [blocks]."""
    return x.gather(0, x.abs().argmax(0, keepdim=True))[0]


def root(x: Tensor) -> Tensor:
    """The square root, correctly rounded as `sqrtf` of C is; torch's own in float32 is off by one bit now and then.

    A float64 root is so close that rounding it to float32 cannot go wrong: no root of a float32 lies near a midpoint.
    """
    return x.double().sqrt().float()


def importance_weights(W: Tensor, importance: Tensor) -> Tensor:
    """What an error costs, [n, k]: importance [k] * sqrt(mean square of the row + w^2)."""
    W = W.float()
    sigma2 = sum_in_order(columns(W).square()) / W.shape[1]
    return importance.float() * root(sigma2[:, None] + W * W)


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The columns of tensors [g, blocks] some at a time, so that the rows of one search stay in the cache."""
    for start in range(0, tensors[0].shape[1], AT_ONCE):
        yield tuple(tensor[:, start : start + AT_ONCE] for tensor in tensors)


def search(inverses: Iterable[Tensor], sums: Sums) -> tuple[Tensor, Tensor]:
    """(scale, inverse), each [blocks]: the best of the candidates, the first of equals.

    `sums` gives (sum(w x l), sum(w l^2)) of the codes that a candidate [blocks] leads to. The first candidate holds
    until another one's gain is larger; llama.cpp compares the gains without dividing.
    """
    first, *others = inverses
    sumlx, suml2 = sums(first)
    scale, inverse = torch.where(suml2 != 0, sumlx / suml2, 0.0), first
    gain = scale * sumlx
    for other in others:
        sumlx, suml2 = sums(other)
        wins = (suml2 > 0) & (sumlx * sumlx > gain * suml2)
        scale = torch.where(wins, sumlx / suml2, scale)
        gain = torch.where(wins, scale * sumlx, gain)
        inverse = torch.where(wins, other, inverse)
    return scale, inverse


def search_scale(x: Tensor, nmax: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """llama.cpp's `make_qx_quants`: x ~ scale * (code - nmax), codes 0 to 2 nmax - 1.

    x [..., g] float32; weights [..., g] say what errors cost, None means x^2. Returns (scale [...], inverse [...],
    codes [..., g] uint8). The codes are those of `inverse`, which is not 1/scale: the scale was fitted afterwards.
    A block of zeros has scale 0, inverse 0 and codes 0 (not nmax: llama.cpp leaves them untouched).

    >>> x = torch.tensor([[-8.0, 3.0, 7.4, 0.1]])
    >>> scale, inverse, codes = search_scale(x, 8)
    >>> codes
    tensor([[ 0, 11, 15,  8]], dtype=torch.uint8)
    """
    whole = columns(x.float())
    w = whole.square() if weights is None else columns(weights.float())
    found = [_search_scale(x_part, w_part, nmax) for x_part, w_part in chunks(whole, w)]
    scale, inverse = (torch.cat(each).reshape(x.shape[:-1]) for each in zip(*found, strict=True))
    return scale, inverse, scale_codes(x, inverse, nmax)


def _search_scale(x: Tensor, w: Tensor, nmax: int) -> tuple[Tensor, Tensor]:
    """(scale, inverse) [blocks] of columns x, w [g, blocks]."""
    wx, q, term = w * x, torch.empty_like(x[0]), torch.empty_like(x[0])  # no new memory in the loop

    def sums(inverse: Tensor) -> tuple[Tensor, Tensor]:
        sumlx, suml2 = torch.zeros_like(inverse), torch.zeros_like(inverse)
        for x_i, w_i, wx_i in zip(x, w, wx, strict=True):
            nearest_(torch.mul(x_i, inverse, out=q)).clamp_(-nmax, nmax - 1)
            sumlx += torch.mul(wx_i, q, out=term)
            suml2 += torch.mul(w_i, q, out=term).mul_(q)
        return sumlx, suml2

    top, step = largest(x), torch.tensor(0.1)  # float32, as in C
    scale, inverse = search((-(nmax + step * i) / top for i in (0, *range(-9, 0), *range(1, 10))), sums)
    zero = top.abs() < SMALLEST
    return scale.masked_fill(zero, 0), inverse.masked_fill(zero, 0)


def scale_codes(x: Tensor, inverse: Tensor, nmax: int) -> Tensor:
    """Codes round(x * inverse) + nmax within 0 to 2 nmax - 1, uint8 [..., g]; x [..., g], inverse [...]."""
    q = nearest_(x * inverse[..., None]).clamp_(-nmax, nmax - 1) + nmax
    return torch.where(inverse[..., None] == 0, 0, q).to(torch.uint8)
