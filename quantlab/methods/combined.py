"""AWQ, then GPTQ, then second thoughts: each repairs what the one before it leaves.

    0. aim       what the layer should have put out                   least squares                   `aim`
    1. scale     AWQ's scales, judged by what GPTQ will pay           how much each column may lose   `priced_scale`
    2. range     for each group the two ends of its levels            clipping, end by end            `ranges`
    3. sweep     GPTQ, the largest H_jj first, in those ranges        later columns answer            (gptq.sweep)
    4. refit     the best scales for the codes as they are            least squares, closed form      `refit`
    5. descend   the best code of each column, all others fixed       coordinate descent              `descend`
                 4 and 5 are repeated `rounds` times

**Aim.** The layers before this one are quantized: they send X, where the original model sent X0. Its outputs should
still be W X0', so the weights to round are not W but the V that brings V X' nearest to that: with C = X0'X

    V = W + W (C - H)(H + damp)^-1

which makes up for what was lost before. Statistics of a one-shot walk have no C, and V is W.

**Prices.** GPTQ pays (w_j - w_hat_j)^2 / R_jj^2 for column j, not H_jj: what the later columns can make up for costs
nothing. So scales and ranges are chosen by these prices, without a matrix product: scaling the channels by s divides
the price of column j by s_j^2. Each end of a range is tried on its own: the weights on one side of zero may be worth
clipping, and those on the other not.

**Refit.** With the codes fixed, a row is linear in the scales of its groups: w_hat = sum_g s_g a_g, a_g the codes less
their zero point. So the best scales solve k/g equations, (A H A') s = A H w'.

**Descend.** With all else fixed, the output error is a parabola in w_hat_j, lowest at w_hat_j + (E H)_j / H_jj with
E = w - w_hat: take the level that is nearest to it. Unlike GPTQ's sweep, it sees the errors of *all* columns.

Neither 4 nor 5 can raise the (dampened) output error: a row keeps its scales where the stored ones, rounded to float16,
are no better; and a nearest level is never farther than the level there was.

Sources: Lin et al. 2023 (AWQ, 2306.00978); Frantar et al. 2022 (GPTQ, 2210.17323), where 1/R_jj^2 is equation 2's
denominator; Li et al. 2025 (GPTAQ, 2504.02692) for the aim, there answered column by column; Behdin et al. 2023
(QuantEase, 2309.01885) for descent over columns; Nagel et al. 2020 (2004.10568) for the layer's output error as what
counts. There is no reference implementation of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from quantlab.core import Format, LayerStats, Params, QuantizedTensor, output_errors
from quantlab.formats.int_affine import IntAffine
from quantlab.methods.awq import candidates, check_shared, rounded
from quantlab.methods.gptq import Factor, factorize, sweep

STEP = 0.05  # ranges that are tried: this much narrower each


def awq_gptq(
    W: Tensor, stats: LayerStats | None, fmt: Format, *, damp: float = 0.01, rounds: int = 3
) -> QuantizedTensor:
    """W [n, k], scaled already, in `fmt`: ranges, sweep, and `rounds` of refit and descent.

    `stats` are of the (scaled) inputs. Raises ValueError for a format without evenly spaced levels, statistics of
    another layer, or an H without an inverse.

    >>> g = torch.Generator().manual_seed(0)
    >>> W, X = torch.randn(8, 128, generator=g), torch.randn(512, 32, generator=g) @ torch.randn(32, 128, generator=g)
    >>> stats = LayerStats(512, X.T @ X, X.abs().mean(0), X.abs().amax(0))
    >>> from quantlab.formats.catalog import get
    >>> from quantlab.methods.gptq import gptq
    >>> error = [(X @ (W - f(W, stats, get("int3_g128")).dequantize()).T).norm().item() for f in (gptq, awq_gptq)]
    >>> error[1] < 0.8 * error[0]
    True
    """
    return awq_gptq_many([W], stats, fmt, damp=damp, rounds=rounds)[0]


def awq_gptq_many(
    Ws: Sequence[Tensor], stats: LayerStats | None, fmt: Format, *, damp: float = 0.01, rounds: int = 3
) -> list[QuantizedTensor]:
    """Layers [n_i, k] that read the same input, at once: the results of `awq_gptq` on each of them."""
    if stats is None:
        raise ValueError("awq_gptq needs the statistics of the layer's input; calibrate, or take the method 'rtn'")
    check_shared(Ws, stats)
    if rounds < 0:
        raise ValueError(f"rounds must be 0 or more, got {rounds}; 3 is enough")
    grid, factor = _affine(fmt), factorize(stats.H, damp, act_order=True)
    H = dampened(stats.H, factor, damp)
    W = aim(torch.cat([W.float() for W in Ws]), stats, H).masked_fill(factor.dead, 0)
    q, p = sweep(W, factor, grid, ranges(W, prices(factor), grid))
    for _ in range(rounds):
        p = refit(W, q, p, H, grid)
        q = descend(W, q, p, H, grid)
    if rounds:
        p = refit(W, q, p, H, grid)
    ends = [0, *accumulate(len(part) for part in Ws)]
    return [fmt.store(q[a:b], {name: part[a:b] for name, part in p.items()}) for a, b in pairwise(ends)]


def priced_scale(
    Ws: Sequence[Tensor], stats: LayerStats, fmt: Format, *, damp: float = 0.01, steps: int = 20, duo: str = "auto"
) -> Tensor:
    """The scale [k] for layers [n_i, k] that share an input: of AWQ's candidates the one that GPTQ pays least for.

    No candidate is worse than no scale at all: that is one of them.
    """
    check_shared(Ws, stats)
    W = torch.cat([W.float() for W in Ws])
    price = prices(factorize(stats.H, damp, act_order=True))

    def cost(scale: Tensor) -> float:
        return float(((rounded(W * scale, fmt) / scale - W).square_().sum(0) * price).sum())

    return min(candidates(W, stats, fmt, steps, duo), key=cost)


def _affine(fmt: Format) -> IntAffine:
    if not isinstance(fmt.grid, IntAffine):
        raise ValueError(f"awq_gptq needs integer levels, {fmt.name} has none; take an int format, such as int4_g128")
    return fmt.grid


def aim(W: Tensor, stats: LayerStats, H: Tensor) -> Tensor:
    """The weights [n, k] that come closest to the original outputs, W X0', on the inputs that the layer really gets.

    Least squares of W X0' - V X', with the dampening of H [k, k] holding V near W. Without `stats.C` it is W.
    """
    if stats.C is None:
        return W
    wrong = W @ (stats.C - stats.H).to(W)  # [n, k]  W (X0 - X)'X
    return W + torch.cholesky_solve(wrong.T, torch.linalg.cholesky(H)).T


def prices(factor: Factor) -> Tensor:
    """What GPTQ pays for a squared error of each column [k]: 1 / R_jj^2."""
    paid = torch.empty_like(factor.R[0])
    paid[factor.order] = factor.R.diagonal() ** -2
    return paid


def dampened(H: Tensor, factor: Factor, damp: float) -> Tensor:
    """H as `factorize` took it: 1 on the diagonal of dead inputs, then damp * mean(diag H) on all of it."""
    H = H.to(torch.float32, copy=True)
    H.diagonal()[factor.dead] = 1
    H.diagonal().add_(damp * H.diagonal().mean())
    return H


def ranges(W: Tensor, price: Tensor, grid: IntAffine) -> Params:
    """Scale and zero [n, k/g] of each group of W [n, k], in the range that costs least; price [k] of squared errors.

    First both ends shrink together, down to half; then, twice, each end tries six moves of its own.
    """
    n, k = W.shape
    g = grid.group or k
    groups, price = W.reshape(n, -1, g), price.reshape(1, -1, g)
    ends = torch.stack([groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)])[..., None]  # [2, n, k/g, 1]

    def fit(shares: Tensor) -> Params:
        low, high = ends * shares
        return grid.fit(groups.clamp(low, high).flatten(1))

    def loss(shares: Tensor) -> Tensor:
        p = fit(shares)
        W_hat = grid.value(grid.snap(groups, p["scale"][..., None], p["zero"][..., None]),
                           p["scale"][..., None], p["zero"][..., None])  # fmt: skip
        return ((groups - W_hat).square_().mul_(price)).sum(-1, keepdim=True)

    best = torch.ones_like(ends)  # the share of each end that is kept
    smallest = loss(best)
    moves = [(slice(0, 2), torch.ones_like(best), -i) for i in range(1, 11)]
    for move in range(4):
        moves += [(slice(move % 2, move % 2 + 1), best, i) for i in (-3, -2, -1, 1, 2, 3)]
    for end, start, i in moves:
        tried = start.clone()
        tried[end] = (tried[end] + STEP * i).clamp(0.2, 1.2)
        cost = loss(tried)
        better = cost < smallest
        smallest = torch.where(better, cost, smallest)
        best[:] = torch.where(better, tried, best)
    return fit(best)


def refit(W: Tensor, q: Tensor, p: Params, H: Tensor, grid: IntAffine) -> Params:
    """The parameters with the scales that least squares finds for the codes q [n, k]; zero points stay.

    A row keeps its scales where the new ones, as stored, have no smaller error.
    """
    n, k = W.shape
    g = grid.group or k
    A = grid.value(q.float().reshape(n, -1, g), torch.ones(1), p["zero"][..., None])  # [n, k/g, g]
    AH = torch.einsum("ngi,gik->ngk", A, H.reshape(-1, g, k))  # [n, k/g, k]
    left = torch.einsum("nghi,nhi->ngh", AH.reshape(n, -1, k // g, g), A)  # [n, k/g, k/g]
    right = torch.einsum("ngk,nk->ng", AH, W)
    ridge = 1e-6 * left.diagonal(dim1=1, dim2=2).mean(-1) + torch.finfo(W.dtype).tiny  # a group of only zero codes
    s = torch.linalg.solve(left + ridge[:, None, None] * torch.eye(k // g), right)
    s = torch.where(s > p["scale"] / 4, s, p["scale"])  # a scale stays positive and never collapses
    s = s.to(grid.scale_dtype).float()
    new = {"scale": s, "zero": p["zero"]}
    better = output_errors(W - grid.decode(q, new), H) < output_errors(W - grid.decode(q, p), H)
    return {"scale": torch.where(better[:, None], s, p["scale"]), "zero": p["zero"]}


def descend(W: Tensor, q: Tensor, p: Params, H: Tensor, grid: IntAffine, *, block: int = 64) -> Tensor:
    """Codes q [n, k] after each column once took the level that is best for all the others as they are.

    As in `gptq.sweep` columns are rows here, and what lies outside of a block hears of it in one matrix product.
    """
    n, k = W.shape
    g = grid.group or k
    scale, zero = p["scale"].T.contiguous(), p["zero"].T.contiguous()  # [k/g, n]
    W_hat, codes = grid.decode(q, p).T.contiguous(), q.T.contiguous()  # [k, n]
    pull = H @ (W.T - W_hat)  # [k, n]  E H: where each column would go
    for start in range(0, k, block):
        stop = min(start + block, k)
        moved = torch.zeros(stop - start, n)
        here = pull[start:stop].clone()
        for j in range(start, stop):
            s, z = scale[j // g], zero[j // g]
            code = grid.snap(W_hat[j] + here[j - start] / H[j, j], s, z)
            value = grid.value(code, s, z)
            moved[j - start] = value - W_hat[j]
            here[j - start :] -= H[j:stop, j, None] * moved[j - start]
            W_hat[j], codes[j] = value, code
        pull -= H[:, start:stop] @ moved
    return codes.T.contiguous()
