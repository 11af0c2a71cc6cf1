"""GPTQ: round one column at a time, and let the columns that are still free make up for the error.

What counts is the layer's output, not its weights: ||X(W - W_hat)'||^2 = tr (W - W_hat) H (W - W_hat)' with H = X'X.
Column j is rounded to w_hat_j; the best answer of the columns behind it is (the paper's equations 2 and 3)

    e_j = (w_j - w_hat_j) / R_jj            how wrong, in units of what column j can still do
    W_after -= e_j R_j,after                every later column moves, so that the output moves back

where H^-1 = R'R, R upper triangular (the paper's Cholesky step, section 3.3): row j of R holds all that the inverse
of the *remaining* Hessian has to say about column j, so one factorization serves the whole sweep. The rows of W never
meet, so all of them go at once, and so do all layers that read the same input (q, k and v; gate and up).

Three more steps of the paper:

    lazy blocks   inside a block of 128 columns only the block is updated; the columns behind it get the errors of the
                  whole block in one matrix product
    dampening     H + damp * mean(diag H) * I: few or similar tokens leave H without an inverse
    dead inputs   H_jj = 0, the input was always zero: such weights become 0, as in the authors' code

and two of the authors' code: **act order** takes the columns with the largest H_jj first, while all the others can
still answer; **static groups** fit every group's scale to the original weights before the sweep, so that act order
leaves each column in its group. Otherwise a group is fitted when the sweep reaches it, to the weights as they are
then; in the authors' code that is as they were at the start of the block, and so it is here.

Source: Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
arXiv 2210.17323; the authors' code, github.com/IST-DASLab/gptq. In float32 the operations are the authors' in the
authors' order: the same H and grid give the same codes, to the last bit (tests/reference/test_gptq_codes.py, GPTQModel
7.7.0 and llm-compressor 0.14 likewise). Where bits can differ: another scale or order of summation of H; another
linear algebra library, or another number of threads in it, which moves the last bits of the factor and about one code
in 5,000. Act order and static groups are the default, as in llm-compressor: on the bundled model they bring the KL
divergence of 4 bits from 0.0233 to 0.0223, and any format can store the result.
Left out: the search for a smaller scale (`mse`), grids that are not uniform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from quantlab.core import Format, Grid, LayerStats, Params, QuantizedTensor, check_weights


@runtime_checkable
class UniformGrid(Grid, Protocol):
    """A grid that rounds element by element once it knows the scale: what a sweep over columns needs."""

    @property
    def group(self) -> int | None:
        """Columns that share a scale; None is a whole row."""
        ...

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Codes of the nearest levels."""
        ...

    def value(self, q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The levels of these codes."""
        ...


@dataclass(frozen=True)
class Factor:
    """What an input has to say to every layer that reads it: made once, used by all of them."""

    R: Tensor  # [k, k]  upper triangular, (H + damp)^-1 = R'R, rows and columns in the order of the sweep
    order: Tensor  # [k]  the column that the sweep takes first, second, ...
    dead: Tensor  # [k]  inputs that were always zero


def gptq(
    W: Tensor,
    stats: LayerStats | None,
    fmt: Format,
    *,
    damp: float = 0.01,
    act_order: bool = True,
    static_groups: bool = True,
    block: int = 128,
) -> QuantizedTensor:
    """W [n, k] in `fmt`, each column's rounding error made up for by the columns after it.

    `stats` are of the layer's input. Raises ValueError for a format without a uniform grid, statistics of another
    layer, an H without an inverse, or act order in a format that cannot store which column is in which group.

    >>> import torch
    >>> from quantlab.formats.catalog import get
    >>> from quantlab.methods.rtn import rtn
    >>> g = torch.Generator().manual_seed(0)
    >>> W, X = torch.randn(8, 128, generator=g), torch.randn(512, 32, generator=g) @ torch.randn(32, 128, generator=g)
    >>> stats = LayerStats(512, X.T @ X, X.abs().mean(0), X.abs().amax(0))
    >>> error = [(X @ (W - method(W, stats, get("int3_g128")).dequantize()).T).norm().item() for method in (rtn, gptq)]
    >>> error[1] < error[0] / 2
    True
    """
    return gptq_many([W], stats, fmt, damp=damp, act_order=act_order, static_groups=static_groups, block=block)[0]


def gptq_many(
    Ws: Sequence[Tensor],
    stats: LayerStats | None,
    fmt: Format,
    *,
    damp: float = 0.01,
    act_order: bool = True,
    static_groups: bool = True,
    block: int = 128,
) -> list[QuantizedTensor]:
    """Layers [n_i, k] that read the same input, in one sweep: the results of `gptq` on each of them."""
    grid = uniform_grid(fmt)
    fixed = static_groups or grid.group is None
    if act_order and not fixed and not getattr(fmt.packing, "desc_act", False):
        raise ValueError(
            f"act_order mixes the columns of groups, and {fmt.name} cannot store which is in which; "
            "take static_groups=True, or gptq_int4_g128 with desc_act=True"
        )
    if stats is None:
        raise ValueError("gptq needs the statistics of the layer's input; calibrate first, or take the method 'rtn'")
    if not Ws or block < 1:
        raise ValueError(f"block must be at least 1, got {block}" if Ws else "gptq_many needs at least one layer")
    for W in Ws:
        check_weights(W)
        stats.check(W)
    factor = factorize(stats.H, damp, act_order)
    p = _concatenated([grid.fit(W.float().masked_fill(factor.dead, 0)) for W in Ws]) if fixed else None
    q, p = sweep(torch.cat([W.float() for W in Ws]), factor, grid, p, block)
    ends = [0, *accumulate(len(W) for W in Ws)]
    return [fmt.store(q[a:b], _rows(p, slice(a, b))) for a, b in pairwise(ends)]


def factorize(H: Tensor, damp: float = 0.01, act_order: bool = False, dtype: torch.dtype = torch.float32) -> Factor:
    """R with (H + damp * mean(diag H))^-1 = R'R, for a sweep in the natural order or from the largest H_jj down."""
    if not damp >= 0 or math.isinf(damp):
        raise ValueError(f"damp must be a number from 0, got {damp}; the paper takes 0.01")
    H = H.to(dtype, copy=True)  # [k, k]
    diagonal = H.diagonal()  # a view: what is written to it is written to H
    dead = diagonal == 0
    diagonal[dead] = 1
    order = diagonal.argsort(descending=True) if act_order else torch.arange(len(H), device=H.device)
    if act_order:
        H = H[order][:, order]
    H.diagonal().add_(damp * H.diagonal().mean())
    try:
        R = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ValueError(
            f"H has no inverse with damp={damp:g}: the inputs are too few or too much alike; "
            "calibrate with more text, or raise damp"
        ) from error
    return Factor(R, order, dead)


def sweep(W: Tensor, factor: Factor, grid: UniformGrid, p: Params | None, block: int = 128) -> tuple[Tensor, Params]:
    """Codes q uint8 [n, k] of W [n, k] and their parameters, column after column in the order of the factor.

    `p` holds the scale and zero [n, k/g] of every group where they are fixed beforehand (static groups, or clipped by
    another method); None fits each group when the sweep reaches it. A changed order then changes which columns make up
    a group, and "g_idx" [k] says which.
    """
    R, order, (n, k) = factor.R, factor.order, W.shape
    g = grid.group or k
    if k % g:
        raise ValueError(f"rows of {k} weights do not divide into groups of {g}; choose a divisor of k")
    group = torch.arange(k, device=W.device) // g  # of each column
    group_at = (group if p is None else group[order]).tolist()  # of each step of the sweep
    levels = [] if p is None else list(zip(p["scale"].T.contiguous(), p["zero"].T.contiguous(), strict=True))
    todo = W.to(R)[:, order].T.contiguous()  # [k, n]: a column of W is a row here, and lies in one piece
    todo[factor.dead[order]] = 0
    q = torch.empty(k, n, dtype=torch.uint8, device=W.device)
    paid = R.diagonal().tolist()
    moves = torch.empty(block, n, dtype=R.dtype, device=W.device)  # made once: a new one for each column costs more
    for start in range(0, k, block):
        stop = min(start + block, k)
        inside, errors = todo[start:stop].clone(), torch.empty(stop - start, n, dtype=R.dtype, device=W.device)
        for j in range(start, stop):
            if p is None and j % g == 0:
                fitted = grid.fit(todo[j : j + g].T)
                levels.append((fitted["scale"][:, 0], fitted["zero"][:, 0]))
            scale, zero = levels[group_at[j]]
            w = inside[j - start]
            q[j] = codes = grid.snap(w, scale, zero)
            error = torch.div(w - grid.value(codes, scale, zero), paid[j], out=errors[j - start])  # equation 2
            move = torch.mul(R[j, j + 1 : stop, None], error, out=moves[: stop - j - 1])
            inside[j + 1 - start :] -= move  # equation 3, inside the block
        todo[stop:] -= R[start:stop, stop:].T @ errors  # equation 3, behind the block
    back = order.argsort()
    if p is None:
        p = {"scale": torch.stack([s for s, _ in levels], 1), "zero": torch.stack([z for _, z in levels], 1)}
        if not torch.equal(group[back], group):
            p["g_idx"] = group[back].to(torch.int32)
    return q[back].T.contiguous(), p


def uniform_grid(fmt: Format) -> UniformGrid:
    """The grid of a format whose levels are evenly spaced; any other raises ValueError."""
    if not isinstance(fmt.grid, UniformGrid):
        raise ValueError(f"gptq needs evenly spaced levels, {fmt.name} has none; take an int format, such as int4_g128")
    return fmt.grid


def _concatenated(of: Sequence[Params]) -> Params:
    """The parameters of layers, one above the other."""
    return {name: torch.cat([p[name] for p in of]) for name in of[0]}


def _rows(p: Params, of: slice) -> Params:
    """The parameters of some of the stacked rows."""
    return {name: part if name == "g_idx" else part[of] for name, part in p.items()}
