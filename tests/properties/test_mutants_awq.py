"""Deliberately wrong AWQs: the checks that the right one passes must tell each of them apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quantlab.core import LayerStats, output_errors
from quantlab.formats.catalog import get
from quantlab.formats.int_affine import IntAffine
from quantlab.methods import combined
from quantlab.methods.awq import awq_scale, candidates, rounded, scaled_error
from quantlab.methods.combined import dampened, descend, prices, ranges, refit
from quantlab.methods.gptq import factorize, sweep

FMT = get("int3_g128", symmetric=False)
GRID = IntAffine(3, 128, symmetric=False)
Scaler = Callable[[Tensor, LayerStats], Tensor]


def layer() -> tuple[Tensor, LayerStats]:
    """Inputs of very different sizes, some of which go together."""
    generator = torch.Generator().manual_seed(9)
    X = torch.randn(300, 32, generator=generator) @ torch.randn(32, 256, generator=generator)
    X = (X + torch.randn(300, 256, generator=generator)) * torch.logspace(-1, 1, 256)
    W = torch.randn(24, 256, generator=generator)
    return W, LayerStats(300, X.T @ X, X.abs().mean(0), X.abs().amax(0))


def check_scale(scaler: Scaler) -> None:
    """Of all candidates, none has a smaller output error than the scale that was found."""
    W, stats = layer()
    losses = [scaled_error(W, stats.H, FMT, scale) for scale in candidates(W, stats, FMT)]
    found = scaler(W, stats)
    assert scaled_error(W, stats.H, FMT, found) <= min(losses)


def _weight_error_only(W: Tensor, stats: LayerStats) -> Tensor:
    return min(candidates(W, stats, FMT), key=lambda s: float((rounded(W * s, FMT) / s - W).square().sum()))


def _error_of_the_scaled_weights(W: Tensor, stats: LayerStats) -> Tensor:
    def wrong(s: Tensor) -> float:
        E = rounded(W * s, FMT) - W * s  # not divided by s
        return float(((E @ stats.H) * E).sum())

    return min(candidates(W, stats, FMT), key=wrong)


def _largest_input(W: Tensor, stats: LayerStats) -> Tensor:
    return awq_scale([W], LayerStats(300, stats.H, stats.x_absmax.flip(0), stats.x_absmax), FMT, relative=False)


SCALERS: dict[str, Scaler] = {
    "judged by the weights alone": _weight_error_only,
    "error not divided by the scale": _error_of_the_scaled_weights,
    "inverse scale": lambda W, stats: 1 / awq_scale([W], stats, FMT, relative=False),
    "another layer's inputs": _largest_input,
    "no scale": lambda W, stats: torch.ones(W.shape[1]),
    "last candidate": lambda W, stats: list(candidates(W, stats, FMT))[-1],
}


def test_the_right_scale_passes() -> None:
    check_scale(lambda W, stats: awq_scale([W], stats, FMT, relative=False))


@pytest.mark.parametrize("name", SCALERS)
def test_wrong_scales_are_told_apart(name: str) -> None:
    with pytest.raises(AssertionError):
        check_scale(SCALERS[name])


def check_refinement(steps: dict[str, Callable[..., object]]) -> None:
    """No step raises a row's output error, and all together lower the sum by more than 0.5%."""
    W, stats = layer()
    factor = factorize(stats.H, act_order=True)
    H = dampened(stats.H, factor, 0.01)
    do_refit, do_descend = steps.get("refit", refit), steps.get("descend", descend)
    q, p = sweep(W, factor, GRID, ranges(W, prices(factor), GRID))
    first = before = output_errors(W - GRID.decode(q, p), H)
    for _ in range(2):
        p = do_refit(W, q, p, H, GRID)  # type: ignore[assignment]
        middle = output_errors(W - GRID.decode(q, p), H)
        q = do_descend(W, q, p, H, GRID)  # type: ignore[assignment]
        after = output_errors(W - GRID.decode(q, p), H)
        assert (middle <= before).all()
        assert (after <= middle * (1 + 1e-4)).all()
        before = after
    assert before.sum() < 0.995 * first.sum()


def _refit_by_weights(W: Tensor, q: Tensor, p: dict[str, Tensor], H: Tensor, grid: IntAffine) -> dict[str, Tensor]:
    A = q.float().reshape(len(W), -1, 128) - p["zero"][..., None]
    s = (A * W.reshape(A.shape)).sum(-1) / A.square().sum(-1).clamp(min=1e-9)
    return {"scale": s.clamp(min=1e-6), "zero": p["zero"]}


def _descend_all_at_once(W: Tensor, q: Tensor, p: dict[str, Tensor], H: Tensor, grid: IntAffine) -> Tensor:
    W_hat = grid.decode(q, p)
    return grid.encode(W_hat + ((W - W_hat) @ H) / H.diagonal(), p)  # each column as if it moved alone


def _descend_wrong_sign(W: Tensor, q: Tensor, p: dict[str, Tensor], H: Tensor, grid: IntAffine) -> Tensor:
    W_hat = grid.decode(q, p)
    return descend(2 * W_hat - W, q, p, H, grid)


REFINEMENTS: dict[str, dict[str, Callable[..., object]]] = {
    "scales that fit the weights, not the outputs": {"refit": _refit_by_weights},
    "all columns move at once": {"descend": _descend_all_at_once},
    "columns move the wrong way": {"descend": _descend_wrong_sign},
    "nothing moves": {"refit": lambda W, q, p, H, grid: p, "descend": lambda W, q, p, H, grid: q},
}


def test_the_right_refinement_passes() -> None:
    check_refinement({})


@pytest.mark.parametrize("name", REFINEMENTS)
def test_wrong_refinements_are_told_apart(name: str) -> None:
    with pytest.raises(AssertionError):
        check_refinement(REFINEMENTS[name])


def test_prices_out_of_order_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prices of the sweep's order, read as if they were those of the columns."""
    _W, stats = layer()
    factor = factorize(stats.H, act_order=True)
    right = combined.prices(factor)
    wrong = factor.R.diagonal() ** -2
    assert torch.equal(right[factor.order], wrong)
    assert not torch.equal(right, wrong)
    H_jj = dampened(stats.H, factor, 0.01).diagonal()
    assert (right <= H_jj * (1 + 1e-4)).all()
    assert not (wrong <= H_jj * (1 + 1e-4)).all()
