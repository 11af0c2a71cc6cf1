"""AWQ and the salient columns: what they gain on real layers, and what they say to a user's mistake."""

from __future__ import annotations

import pytest
import torch
from gptq_laws import Case
from layer_inputs import real_layers, stats_of

from quantlab.core import LayerStats
from quantlab.formats.catalog import get
from quantlab.methods.awq import (
    awq,
    awq_scale,
    candidates,
    clipped,
    diagonal_blocks,
    group_errors,
    rounded,
    scaled_error,
)
from quantlab.methods.catalog import METHODS
from quantlab.methods.gptq import uniform_grid
from quantlab.methods.salience import keep_columns, largest, salient, salient_by_weight

INT3 = get("int3_g128", symmetric=False)


@pytest.fixture
def case() -> Case:
    """Inputs of very different sizes, as in real models."""
    generator = torch.Generator().manual_seed(5)
    X = (
        torch.randn(300, 256, generator=generator)
        * torch.logspace(-1, 1, 256)[torch.randperm(256, generator=generator)]
    )
    return Case(torch.randn(32, 256, generator=generator), X.T @ X)


def test_the_scale_lowers_the_error_and_no_candidate_is_better(case: Case) -> None:
    found = awq_scale([case.W], case.stats, INT3, relative=False)
    losses = [scaled_error(case.W, case.H, INT3, s) for s in candidates(case.W, case.stats, INT3)]
    assert len(losses) == 40  # 20 and 20, where no scale is the first of the first
    assert scaled_error(case.W, case.H, INT3, found) == min(losses)
    assert min(losses) < 0.8 * losses[0]


def test_a_large_output_does_not_choose_the_scale_for_the_small_ones(case: Case) -> None:
    """One row, ten thousand times as large, that reads the quiet inputs: summed as they are, it alone decides."""
    quiet = case.stats.x_absmean < case.stats.x_absmean.median()
    W = torch.cat([case.W, 1e4 * (case.W[:1] * quiet + 1e-3 * case.W[:1])])
    alone, all_of_them = (awq_scale([W], case.stats, INT3, relative=relative) for relative in (False, True))
    assert torch.equal(alone, min(candidates(W, case.stats, INT3), key=lambda s: scaled_error(W[-1:], case.H, INT3, s)))
    assert scaled_error(case.W, case.H, INT3, all_of_them) < 0.95 * scaled_error(case.W, case.H, INT3, alone)


def test_an_output_that_is_always_zero_does_not_choose_the_scale(case: Case) -> None:
    X = torch.zeros(256, 256)
    X[:, :128] = torch.randn(256, 128, generator=torch.Generator().manual_seed(1))
    stats = LayerStats(256, X.T @ X, X.abs().mean(0), X.abs().amax(0))
    W = case.W.clone()
    W[0, :128] = 0
    assert torch.isfinite(awq_scale([W], stats, INT3)).all()


def test_layers_that_share_an_input_are_judged_together(case: Case) -> None:
    together = awq_scale([case.W, 100 * case.W.flip(0)], case.stats, INT3)
    as_one = awq_scale([torch.cat([case.W, 100 * case.W.flip(0)])], case.stats, INT3)
    assert torch.equal(together, as_one)


@pytest.mark.parametrize("name", ["int3_g128", "awq_int4_g128", "gptq_int4_g128", "int4_g32"])
def test_clipping_never_raises_the_error_of_a_group(name: str, case: Case) -> None:
    fmt = get(name)
    grid = uniform_grid(fmt)
    G = diagonal_blocks(case.H, grid.group or 256)
    before = group_errors(case.W - rounded(case.W, fmt), G)
    p = clipped(case.W, case.H, grid)
    after = group_errors(case.W - grid.decode(grid.encode(case.W, p), p), G)
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < before.sum()


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_real_layers_gain_from_scale_and_clip(model: str) -> None:
    layers = real_layers(model)
    fmt = get("int3_g128", group=128 if model == "tiny" else 64, symmetric=False)
    for name in ("0.self_attn.q_proj", "1.mlp.gate_proj"):
        layer = layers[name]
        W, stats = layer.W[:128], layer.stats
        scale = awq_scale([W], stats, fmt)
        scaled = awq(W * scale, stats.scaled(scale), fmt, clip=False).dequantize() / scale
        both = awq(W * scale, stats.scaled(scale), fmt).dequantize() / scale
        errors = [float(((E @ stats.H) * E).sum()) for E in (rounded(W, fmt) - W, scaled - W, both - W)]
        assert errors[0] >= errors[1] > errors[2]


def test_scaling_works_with_any_format(case: Case) -> None:
    scale = awq_scale([case.W], case.stats, get("nf4"), steps=5)
    assert scaled_error(case.W, case.H, get("nf4"), scale) <= scaled_error(case.W, case.H, get("nf4"), torch.ones(256))
    stored = awq(case.W * scale, case.stats.scaled(scale), get("nf4"), clip=False)
    assert torch.equal(stored.dequantize(), get("nf4").quantize(case.W * scale).dequantize())


def test_dead_inputs_and_empty_groups_leave_finite_scales(case: Case) -> None:
    H = case.H.clone()
    H[:, :130] = 0
    H[:130] = 0
    stats = LayerStats(1, H, H.diagonal().sqrt(), H.diagonal().sqrt())
    scale = awq_scale([case.W], stats, INT3)
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
    W = case.W.clone()
    W[:, :128] = 0
    assert (awq(W * scale, stats.scaled(scale), INT3).dequantize()[:, :128] == 0).all()


def test_mistakes_are_named(case: Case) -> None:
    other = stats_of(torch.randn(8, 64))
    with pytest.raises(ValueError, match="64: they belong to another layer"):
        awq_scale([case.W], other, INT3)
    with pytest.raises(ValueError, match="64: they belong to another layer"):
        awq(case.W, other, INT3)
    with pytest.raises(ValueError, match="calibrate first"):
        awq(case.W, None, INT3)
    with pytest.raises(ValueError, match="nf4 has none"):
        awq(case.W, case.stats, get("nf4"))
    with pytest.raises(ValueError, match="duo must be one of no, yes, auto, got 'both'"):
        awq_scale([case.W], case.stats, INT3, duo="both")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        awq_scale([case.W], case.stats, INT3, steps=0)


def test_the_catalog_knows_it() -> None:
    assert METHODS["awq"].scale is awq_scale
    assert METHODS["awq"].needs_stats


def test_salient_columns_by_input_by_weight_and_kept() -> None:
    layer = real_layers("tiny")["1.mlp.down_proj"]
    W, stats = layer.W[:128], layer.stats
    fmt = get("int3_g128")
    by_input, by_weight = salient(stats, 0.01), salient_by_weight(W, 0.01)
    assert len(by_input) == len(by_weight) == 10
    assert stats.x_absmean[by_input].min() >= stats.x_absmean.topk(10).values.min()
    W_hat = keep_columns(W, fmt, by_input)
    assert torch.equal(W_hat[:, by_input], W[:, by_input].half().float())
    others = torch.ones(W.shape[1], dtype=torch.bool)
    others[by_input] = False
    assert torch.equal(W_hat[:, others], fmt.quantize(W).dequantize()[:, others])
    error = {
        name: float(((E @ stats.H) * E).sum())
        for name, E in (("input", W - W_hat), ("none", W - fmt.quantize(W).dequantize()))
    }
    assert error["input"] < error["none"]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_must_be_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        largest(torch.rand(8), share)


@pytest.mark.parametrize("columns", [[128], [0, -1]])
def test_columns_must_exist(columns: list[int]) -> None:
    with pytest.raises(ValueError, match="is not among the 128 of these weights"):
        keep_columns(torch.randn(4, 128), get("int3_g128"), torch.tensor(columns))
