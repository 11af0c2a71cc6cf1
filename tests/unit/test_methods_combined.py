"""AWQ, GPTQ and refinement together: each step helps, and none of them can hurt."""

from __future__ import annotations

import itertools

import pytest
import torch
from gptq_laws import Case
from layer_inputs import real_layers, stats_of

from quantlab.core import LayerStats, output_errors
from quantlab.formats.catalog import get
from quantlab.formats.int_affine import IntAffine
from quantlab.methods.awq import awq, candidates, rounded
from quantlab.methods.catalog import METHODS
from quantlab.methods.combined import (
    aim,
    awq_gptq,
    awq_gptq_many,
    dampened,
    descend,
    priced_scale,
    prices,
    ranges,
    refit,
)  # fmt: skip
from quantlab.methods.gptq import factorize, gptq, sweep

INT3 = get("int3_g128", symmetric=False)
GRID = IntAffine(3, 128, symmetric=False)


@pytest.fixture
def case() -> Case:
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(300, 16, generator=generator) @ torch.randn(16, 256, generator=generator)
    X = X + 0.2 * torch.randn(300, 256, generator=generator)
    return Case(torch.randn(32, 256, generator=generator), X.T @ X)


class TestAim:
    """X0 is what the original model sends, X what arrives: the outputs W X0' are the aim."""

    @pytest.fixture
    def pair(self, case: Case) -> tuple[torch.Tensor, torch.Tensor, LayerStats]:
        generator = torch.Generator().manual_seed(4)
        X0 = torch.randn(900, 16, generator=generator) @ torch.randn(16, 256, generator=generator)
        X0 = X0 + 0.2 * torch.randn(900, 256, generator=generator)
        X = X0 @ (torch.eye(256) + 0.02 * torch.randn(256, 256, generator=generator))
        return X0, X, LayerStats(900, X.T @ X, X.abs().mean(0), X.abs().amax(0), X0.T @ X)

    def test_least_squares(self, case: Case, pair: tuple[torch.Tensor, torch.Tensor, LayerStats]) -> None:
        """Without dampening it is what a solver finds from X0 and X themselves."""
        X0, X, W = (t.double() for t in (*pair[:2], case.W))
        expected = torch.linalg.lstsq(X, X0 @ W.T).solution.T
        stats = LayerStats(900, X.T @ X, X.abs().mean(0), X.abs().amax(0), X0.T @ X)
        assert (aim(W, stats, stats.H) - expected).norm() < 1e-6 * (W - expected).norm()

    def test_codes_come_closer_to_the_original_outputs(
        self, case: Case, pair: tuple[torch.Tensor, torch.Tensor, LayerStats]
    ) -> None:
        X0, X, stats = pair
        off = [
            float((X0 @ case.W.T - X @ awq_gptq(case.W, one, get("int4_g128")).dequantize().T).norm())
            for one in (stats, LayerStats(900, stats.H, stats.x_absmean, stats.x_absmax))
        ]
        assert off[0] < 0.7 * off[1]

    def test_nothing_changes_where_the_inputs_are_the_same(self, case: Case) -> None:
        H = dampened(case.H, factorize(case.H), 0.01)
        size = case.H.diagonal().sqrt()
        assert torch.equal(aim(case.W, LayerStats(1, case.H, size, size, case.H), H), case.W)
        assert aim(case.W, case.stats, H) is case.W

    def test_scales_move_it_with_the_weights(
        self, case: Case, pair: tuple[torch.Tensor, torch.Tensor, LayerStats]
    ) -> None:
        stats = pair[2]
        scale = torch.linspace(0.5, 2, 256)
        plain = aim(case.W, stats, stats.H)
        scaled = aim(case.W * scale, stats.scaled(scale), stats.scaled(scale).H) / scale
        assert (scaled - plain).norm() < 0.01 * (plain - case.W).norm()


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
@pytest.mark.parametrize("bits", [4, 3])
def test_real_layers_lose_least(model: str, bits: int) -> None:
    fmt = get(f"int{bits}_g128", group=128 if model == "tiny" else 64, symmetric=False)
    for name in ("0.self_attn.v_proj", "1.mlp.up_proj"):
        layer = real_layers(model)[name]
        W, stats = layer.W[:128], layer.stats
        ours = awq_gptq(W, stats, fmt).dequantize()
        theirs = [method(W, stats, fmt).dequantize() for method in (awq, gptq)]
        errors = [float(((E @ stats.H) * E).sum()) for E in (W - ours, *(W - other for other in theirs))]
        assert errors[0] < 0.97 * min(errors[1:])  # SmolLM2 was on a 4-bit grid before: there is little left to gain


def test_each_step_lowers_the_error_it_is_for(case: Case) -> None:
    factor = factorize(case.H, act_order=True)
    H = dampened(case.H, factor, 0.01)
    price = prices(factor)
    plain, narrow = GRID.fit(case.W), ranges(case.W, price, GRID)

    def cost(p: dict[str, torch.Tensor]) -> float:
        return float(((case.W - GRID.decode(GRID.encode(case.W, p), p)).square() * price).sum())

    assert cost(narrow) < cost(plain)
    q, p = sweep(case.W, factor, GRID, narrow)
    errors = [output_errors(case.W - GRID.decode(q, p), H)]
    for _ in range(2):
        p = refit(case.W, q, p, H, GRID)
        errors.append(output_errors(case.W - GRID.decode(q, p), H))
        q = descend(case.W, q, p, H, GRID)
        errors.append(output_errors(case.W - GRID.decode(q, p), H))
    for before, after in itertools.pairwise(errors):
        assert (after <= before * (1 + 1e-5)).all()
        assert after.sum() < before.sum()


def test_prices_are_those_of_the_inverse(case: Case) -> None:
    """The last column of the sweep pays 1 / (H^-1)_jj of itself alone; the first 1 / (H^-1)_jj of all."""
    factor = factorize(case.H, act_order=True)
    inverse = dampened(case.H, factor, 0.01).double().inverse().diagonal()
    first = factor.order[0]
    assert prices(factor)[first] == pytest.approx(1 / float(inverse[first]), rel=1e-3)
    assert (prices(factor) <= dampened(case.H, factor, 0.01).diagonal() * (1 + 1e-4)).all()


def test_the_scale_is_the_cheapest_candidate(case: Case) -> None:
    price = prices(factorize(case.H, act_order=True))

    def cost(scale: torch.Tensor) -> float:
        return float(((rounded(case.W * scale, INT3) / scale - case.W).square().sum(0) * price).sum())

    found = priced_scale([case.W[:16], case.W[16:]], case.stats, INT3)
    assert cost(found) == min(cost(s) for s in candidates(case.W, case.stats, INT3))


def test_layers_that_share_an_input_get_what_each_gets_alone(case: Case) -> None:
    together = awq_gptq_many([case.W[:8], case.W[8:]], case.stats, INT3)
    for part, W in zip(together, (case.W[:8], case.W[8:]), strict=True):
        alone = awq_gptq(W, case.stats, INT3).dequantize()
        share = (part.dequantize() != alone).float().mean()
        assert share < 0.02  # matrix products of another shape round differently, and a tie may fall the other way
        assert part.shape == tuple(W.shape)


@pytest.mark.parametrize("name", ["int4_g32", "int8", "awq_int4_g128", "gptq_int4_g128", "int3_g128"])
def test_every_integer_format(name: str, case: Case) -> None:
    fmt = get(name)
    done = awq_gptq(case.W, case.stats, fmt)
    assert case.error(done.dequantize(), 0.01) < case.error(gptq(case.W, case.stats, fmt).dequantize(), 0.01)
    assert done.nbytes == fmt.quantize(case.W).nbytes


def test_no_rounds_is_ranges_and_sweep(case: Case) -> None:
    factor = factorize(case.H, act_order=True)
    q, p = sweep(case.W, factor, GRID, ranges(case.W, prices(factor), GRID))
    assert torch.equal(awq_gptq(case.W, case.stats, INT3, rounds=0).dequantize(), GRID.decode(q, p))


def test_dead_inputs_get_zero_weights(case: Case) -> None:
    H = case.H.clone()
    H[7], H[:, 7] = 0, 0
    stats = LayerStats(1, H, H.diagonal().sqrt(), H.diagonal().sqrt())
    W_hat = awq_gptq(case.W, stats, INT3).dequantize()
    assert torch.isfinite(W_hat).all()
    assert (W_hat[:, 7] == 0).all()


def test_mistakes_are_named(case: Case) -> None:
    with pytest.raises(ValueError, match="64: they belong to another layer"):
        awq_gptq(case.W, stats_of(torch.randn(8, 64)), INT3)
    with pytest.raises(ValueError, match="needs the statistics"):
        awq_gptq(case.W, None, INT3)
    with pytest.raises(ValueError, match="nf4 has none"):
        awq_gptq(case.W, case.stats, get("nf4"))
    with pytest.raises(ValueError, match="rounds must be 0 or more, got -1"):
        awq_gptq(case.W, case.stats, INT3, rounds=-1)
    with pytest.raises(ValueError, match="raise damp"):
        awq_gptq(case.W, stats_of(torch.ones(4, 256)), INT3, damp=0)


def test_the_catalog_knows_it() -> None:
    assert METHODS["awq_gptq"].scale is priced_scale
    assert METHODS["awq_gptq"].together is awq_gptq_many
