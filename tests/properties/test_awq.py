"""Laws of scaling, clipping and refining on layers that nobody thought of."""

from __future__ import annotations

import pytest
import torch
from gptq_laws import Case, cases, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantlab.core import LayerStats, output_errors
from quantlab.formats.int_affine import IntAffine
from quantlab.methods.awq import (
    awq,
    awq_scale,
    candidates,
    clipped,
    diagonal_blocks,
    group_errors,
    normalized,
    output_sizes,
    rounded,
    scaled_error,
    scaled_errors,
)
from quantlab.methods.combined import dampened, descend, prices, ranges, refit
from quantlab.methods.gptq import factorize, sweep
from quantlab.methods.salience import keep_columns, largest

few = settings(max_examples=30, deadline=None)
grids = st.builds(
    IntAffine, st.integers(2, 5), st.sampled_from([8, 16, None]), st.booleans(), st.just(torch.float32)
)  # group None is a whole row


@st.composite
def scales(draw: st.DrawFn, k: int = 32) -> Tensor:
    """Powers of two, so that scaling is exact."""
    return 2.0 ** torch.tensor(draw(st.lists(st.integers(-8, 8), min_size=k, max_size=k)))


@given(cases(), scales())
@few
def test_scaling_weights_up_and_inputs_down_changes_nothing(case: Case, scale: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(16, 32, generator=generator)
    assert torch.allclose(
        (X / scale) @ (case.W * scale).T, X @ case.W.T, rtol=1e-4, atol=1e-4 * float(case.W.abs().max())
    )
    assert torch.equal((case.W * scale) / scale, case.W)
    E = torch.randn(4, 32, generator=generator)
    scaled = case.stats.scaled(scale)
    assert torch.allclose(output_errors(E * scale, scaled.H), output_errors(E, case.H), rtol=1e-3)


@given(cases(), grids)
@few
def test_scale_one_without_clipping_is_rounding_to_nearest(case: Case, grid: IntAffine) -> None:
    fmt = plain(grid)
    one = torch.ones(32)
    assert torch.equal(awq(case.W * one, case.stats.scaled(one), fmt, clip=False).dequantize(), rounded(case.W, fmt))
    E = rounded(case.W, fmt) - case.W
    assert scaled_error(case.W, case.H, fmt, one) == pytest.approx(float(((E @ case.H) * E).sum()), rel=1e-4, abs=1e-6)


@given(cases(), grids, st.sampled_from(["no", "yes", "auto"]), st.booleans())
@few
def test_the_scale_is_the_best_candidate_and_never_worse_than_none(
    case: Case, grid: IntAffine, duo: str, relative: bool
) -> None:
    fmt = plain(grid)
    counts = 1 / output_sizes(case.W, case.H) if relative else torch.ones(len(case.W))

    def loss(scale: Tensor) -> float:
        return float(scaled_errors(case.W, case.H, fmt, scale) @ counts)

    found = awq_scale([case.W], case.stats, fmt, steps=6, duo=duo, relative=relative)
    assert loss(found) == min(loss(s) for s in candidates(case.W, case.stats, fmt, 6, duo)) <= loss(torch.ones(32))


@given(st.lists(st.floats(2.0**-10, 2.0**10, width=32), min_size=1, max_size=20))
@few
def test_normalized_keeps_ratios_and_centres_them(values: list[float]) -> None:
    s = normalized(torch.tensor(values))
    assert torch.isclose(s.max() * s.min(), torch.tensor(1.0), rtol=1e-4)
    assert torch.allclose(s / s[0], torch.tensor(values) / values[0], rtol=1e-4)


@given(cases(), grids)
@few
def test_clipping_never_raises_a_groups_error(case: Case, grid: IntAffine) -> None:
    G = diagonal_blocks(case.H, grid.group or 32)
    p = clipped(case.W, case.H, grid)
    best = group_errors(case.W - grid.decode(grid.encode(case.W, p), p), G)
    plainly = group_errors(case.W - rounded(case.W, plain(grid)), G)
    assert (best <= plainly * (1 + 1e-4) + 1e-20).all()


@given(cases(), grids)
@few
def test_group_errors_add_up_where_groups_do_not_meet(case: Case, grid: IntAffine) -> None:
    G = diagonal_blocks(case.H, grid.group or 32)
    alone = torch.block_diag(*G)
    assert torch.allclose(group_errors(case.W, G).sum(1), output_errors(case.W, alone), rtol=1e-3)


@given(cases(), grids)
@few
def test_refit_and_descent_never_raise_the_error_of_a_row(case: Case, grid: IntAffine) -> None:
    factor = factorize(case.H, act_order=True)
    H = dampened(case.H, factor, 0.01)
    q, p = sweep(case.W, factor, grid, ranges(case.W, prices(factor), grid))
    before = output_errors(case.W - grid.decode(q, p), H)
    p = refit(case.W, q, p, H, grid)
    between = output_errors(case.W - grid.decode(q, p), H)
    after = output_errors(case.W - grid.decode(descend(case.W, q, p, H, grid), p), H)
    slack = 1e-4 * output_errors(case.W, H)  # float32 sums of large numbers that cancel
    assert (between <= before).all()
    assert (after <= between + 1e-2 * slack).all()
    assert (p["scale"] > 0).all()


@given(cases(), st.floats(0.01, 1.0))
@few
def test_kept_columns_are_kept_and_no_others(case: Case, share: float) -> None:
    fmt = plain(IntAffine(3, 8, scale_dtype=torch.float32))
    columns = largest(case.H.diagonal(), share)
    W_hat = keep_columns(case.W, fmt, columns)
    others = [j for j in range(32) if j not in columns.tolist()]
    assert torch.equal(W_hat[:, columns], case.W[:, columns].half().float())
    assert torch.equal(W_hat[:, others], rounded(case.W, fmt)[:, others])
    assert len(set(columns.tolist())) == max(1, round(share * 32))


@given(cases())
@few
def test_statistics_of_scaled_inputs_are_those_of_the_inputs_scaled(case: Case) -> None:
    X = torch.randn(8, 32, generator=torch.Generator().manual_seed(2))
    scale = case.H.diagonal().sqrt()
    stats = LayerStats(8, X.T @ X, X.abs().mean(0), X.abs().amax(0)).scaled(scale)
    Y = X / scale
    assert torch.allclose(stats.H, Y.T @ Y, rtol=1e-3, atol=1e-5)
    assert torch.allclose(stats.x_absmean, Y.abs().mean(0), rtol=1e-5)
