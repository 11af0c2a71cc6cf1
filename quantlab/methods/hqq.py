"""HQQ: half-quadratic quantization. Better levels without a single token of data.

Weights have heavy tails. A least-squares fit bends the levels towards the few large weights; what is wanted is an
error that is small almost everywhere and large at few places, so HQQ minimizes (its equation 1)

    sum |w - w_hat|^p,   p = 0.7 < 1,   w_hat = s * (q - z)

over the zero point z. Such a sum has no derivative to follow, so it is split in two easy halves by a helper e, "the
error that we accept" (equation 3): minimize  sum |e|^p + beta/2 (w_hat - (w - e))^2  in turn, while beta grows. In
units of the step, with u = w/s:

    e <- shrink(u - (q - z)),  shrink(x) = sign(x) max(0, |x| - |x|^(p-1) / beta)    small errors become 0, large stay
    z <- mean of q - (u - e)   over the group: least squares, but for the outliers that e has taken out

Formats that integer kernels read store z as a whole number, and then moving z gains nothing; nor has a symmetric grid
a z to move. So the scale takes its turn as well, by the same least squares (not in the paper):

    s <- s * <u - e, q - z> / <q - z, q - z>

Every step is rounded to what the format can store, and each group keeps the best it has seen, round-to-nearest
included: the sum above is never larger than that of `rtn`, in no group.

Source: Badri & Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models", mobiusml.github.io/hqq_blog;
the package hqq 0.2.8, `optimize_weights_proximal_legacy`, whose p, beta, growth and number of steps these are. Three
things differ. There z is stored as float16, a real number. All groups stop together, when the mean |w - w_hat| of the
layer rises. And shrink sees the error in units of the weights: at beta = 10 it is 0 below |x| = 0.17, and so for every
weight of a usual layer, whatever p; in units of the step it works at any size. Where s = 1 `move_zero` is the package's
step, to the bit (tests/reference/test_hqq_steps.py). Left out: groups along n (its axis=0).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantlab.core import Format, LayerStats, Params, QuantizedTensor, check_weights
from quantlab.formats.int_affine import IntAffine


def hqq(
    W: Tensor,
    stats: LayerStats | None,
    fmt: Format,
    *,
    norm: float = 0.7,
    beta: float = 10.0,
    growth: float = 1.01,
    steps: int = 20,
    scales: bool = True,
) -> QuantizedTensor:
    """W [n, k] in `fmt`, with zero points and `scales` that the many small weights choose, not the few large ones.

    `stats` make no difference. Raises ValueError for a format without integer levels, or a norm above 1.

    >>> from quantlab.formats.catalog import get
    >>> from quantlab.methods.rtn import rtn
    >>> W = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    >>> error = [(W - method(W, None, get("int3_g128")).dequantize()).abs().pow(0.7).sum() for method in (rtn, hqq)]
    >>> bool(error[1] < error[0])
    True
    """
    check_weights(W)
    grid = fmt.grid
    if not isinstance(grid, IntAffine) or grid.per_tensor:
        raise ValueError(f"hqq moves the levels of integer groups, {fmt.name} has none; take int4_g128 or its kin")
    if not 0 < norm <= 1:
        raise ValueError(f"norm must be above 0 and at most 1, got {norm:g}; 2 would be plain least squares")
    if not (beta > 0 and growth >= 1 and steps >= 1):
        raise ValueError(f"beta must be above 0, growth and steps at least 1, got {beta:g}, {growth:g} and {steps}")
    if grid.symmetric and not scales:
        raise ValueError(f"{fmt.name} is symmetric: without its scales there is nothing left to move")
    best = {name: part[..., None] for name, part in grid.fit(W).items()}  # [n, k/g, 1]
    w = W.float().reshape(len(W), -1, grid.group or W.shape[1])  # [n, k/g, g]
    least, top = _cost(w, grid, best, norm), 2**grid.bits - 1
    scale, zero = best["scale"], best["zero"]
    for step in range(steps):
        if not grid.symmetric:
            zero = move_zero(w / scale, zero, top, beta * growth**step, norm)
        if scales:
            scale = scale * stretch(w / scale, zero, top, beta * growth**step, norm)
        tried = _stored(grid, scale, zero)
        cost = _cost(w, grid, tried, norm)
        best = {name: torch.where(cost < least, tried[name], best[name]) for name in best}
        least = torch.where(cost < least, cost, least)
    p = {name: part[..., 0] for name, part in best.items()}
    return fmt.store(grid.encode(W.float(), p), p)


def move_zero(u: Tensor, zero: Tensor, top: int, beta: float, norm: float) -> Tensor:
    """The next zero point [..., 1] of groups u = w/s [..., g] with codes from 0 to `top`; a real number."""
    q, accepted = _split(u, zero, top, beta, norm)
    return (q - (u - accepted)).mean(-1, keepdim=True)


def stretch(u: Tensor, zero: Tensor, top: int, beta: float, norm: float) -> Tensor:
    """What the scale of each group must be multiplied by [..., 1]; 1 for a group that is 0 throughout."""
    q, accepted = _split(u, zero, top, beta, norm)
    level = q - zero
    by = ((u - accepted) * level).sum(-1, keepdim=True) / level.square().sum(-1, keepdim=True)
    return torch.where(by > 0, by, 1)


def _split(u: Tensor, zero: Tensor, top: int, beta: float, norm: float) -> tuple[Tensor, Tensor]:
    """The nearest codes, and the error that is accepted."""
    q = (u + zero).round().clamp(0, top)
    return q, shrink(u - (q - zero), beta, norm)


def shrink(x: Tensor, beta: float, norm: float) -> Tensor:
    """The e that minimizes |e|^norm + beta/2 (e - x)^2, nearly: sign(x) max(0, |x| - |x|^(norm - 1) / beta).

    >>> shrink(torch.tensor([-2.0, 0.1, 0.0]), beta=1.0, norm=1.0)
    tensor([-1.,  0.,  0.])
    """
    size = x.abs()
    return torch.sign(x) * (size - (1 / beta) * size.pow(norm - 1)).clamp(min=0)


def _stored(grid: IntAffine, scale: Tensor, zero: Tensor) -> Params:
    """The nearest scale and zero that the format can store."""
    stored = scale.to(grid.scale_dtype).float()
    top = 2**grid.bits - 1
    return {"scale": stored.masked_fill(stored == 0, grid.rounding.empty(grid.scale_dtype)),
            "zero": zero if grid.symmetric else zero.round().clamp(0, top)}  # fmt: skip


def _cost(w: Tensor, grid: IntAffine, p: Params, norm: float) -> Tensor:
    """sum |w - w_hat|^norm of each group [n, k/g, 1]."""
    W_hat = grid.value(grid.snap(w, p["scale"], p["zero"]), p["scale"], p["zero"])
    return (w - W_hat).abs().pow(norm).sum(-1, keepdim=True)
