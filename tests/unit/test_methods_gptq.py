"""GPTQ as a method: formats, layers that share an input, dead inputs, and what it says to a user's mistake."""

from __future__ import annotations

import pytest
import torch
from gptq_laws import Case, plain
from layer_inputs import real_layers, stats_of

from quantlab.core import LayerStats
from quantlab.formats.catalog import FORMATS, get
from quantlab.formats.int_affine import IntAffine
from quantlab.methods import catalog
from quantlab.methods.gptq import UniformGrid, factorize, gptq, gptq_many, sweep
from quantlab.methods.rtn import rtn

UNIFORM = [name for name, fmt in FORMATS.items() if isinstance(fmt.grid, UniformGrid)]


@pytest.fixture
def case() -> Case:
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(300, 16, generator=generator) @ torch.randn(16, 256, generator=generator)
    X = X + 0.2 * torch.randn(300, 256, generator=generator)
    return Case(torch.randn(32, 256, generator=generator), X.T @ X)


@pytest.mark.parametrize("name", UNIFORM)
def test_every_integer_format_gains(name: str, case: Case) -> None:
    fmt = get(name)
    done, near = gptq(case.W, case.stats, fmt), rtn(case.W, None, fmt)
    assert case.error(done.dequantize()) < 0.8 * case.error(near.dequantize())
    assert done.nbytes == near.nbytes
    assert done.to_bytes() != near.to_bytes()


def test_the_catalog_has_int_formats_to_try() -> None:
    assert {"int8", "int4_g128", "awq_int4_g128", "gptq_int4_g128"} <= set(UNIFORM)


@pytest.mark.parametrize("name", ["nf4", "q4_k", "mxfp4"])
def test_other_formats_are_refused(name: str, case: Case) -> None:
    with pytest.raises(ValueError, match=f"evenly spaced levels, {name} has none; take an int format"):
        gptq(case.W, case.stats, get(name))


@pytest.mark.parametrize("way", [{}, {"act_order": False, "static_groups": False}])
def test_layers_that_share_an_input_get_what_each_gets_alone(way: dict) -> None:
    layers = real_layers("tiny")
    three = [layers[f"0.self_attn.{name}_proj"] for name in "qkv"]
    stats, fmt = three[0].stats, get("gptq_int4_g64")
    together = gptq_many([layer.W for layer in three], stats, fmt, **way)
    for layer, done in zip(three, together, strict=True):
        alone = gptq(layer.W, stats, fmt, **way)
        assert done.shape == tuple(layer.W.shape)
        assert done.to_bytes() == alone.to_bytes()


def test_one_scale_for_a_tensor_is_one_for_each_layer(case: Case) -> None:
    fmt = plain(IntAffine(8, None, scale_dtype=torch.float32, per_tensor=True))
    a, b = gptq_many([case.W, 100 * case.W], case.stats, fmt)
    assert torch.equal(a.parts["scale"], gptq(case.W, case.stats, fmt).parts["scale"])
    assert torch.allclose(100 * a.parts["scale"], b.parts["scale"])


def test_act_order_with_groups_of_its_own_is_stored_as_desc_act(case: Case) -> None:
    fmt = get("gptq_int4_g64", desc_act=True)
    done = gptq(case.W, case.stats, fmt, static_groups=False)
    g_idx = done.parts["g_idx"]
    assert g_idx.bincount().tolist() == [64] * 4
    assert not torch.equal(g_idx, g_idx.sort().values)
    first = case.H.diagonal().argsort(descending=True)[:64]
    assert (g_idx[first] == 0).all()
    assert case.error(done.dequantize()) < 0.8 * case.error(rtn(case.W, None, fmt).dequantize())


@pytest.mark.parametrize("fmt", [get("int4_g64"), get("gptq_int4_g64")], ids=lambda fmt: fmt.name)
def test_without_desc_act_that_is_refused(fmt: object, case: Case) -> None:
    with pytest.raises(
        ValueError, match=r"cannot store which is in which; take static_groups=True, or .*desc_act=True"
    ):
        gptq(case.W, case.stats, fmt, static_groups=False)  # type: ignore[arg-type]


def test_a_row_that_is_one_group_needs_no_desc_act(case: Case) -> None:
    a, b = (gptq(case.W, case.stats, get("int8"), static_groups=static) for static in (False, True))
    assert a.to_bytes() == b.to_bytes()


def test_given_parameters_stay_as_they_are(case: Case) -> None:
    """What a method that clips for itself builds on."""
    grid = get("int4_g64").grid
    assert isinstance(grid, UniformGrid)
    p = {name: part * (0.9 if name == "scale" else 1) for name, part in grid.fit(case.W).items()}
    q, back = sweep(case.W, factorize(case.H, act_order=True), grid, p)
    assert back is p
    assert case.error(grid.decode(q, p)) < case.error(grid.decode(grid.encode(case.W, p), p))


@pytest.mark.parametrize("way", [{}, {"act_order": False, "static_groups": False}])
def test_weights_of_dead_inputs_become_zero_and_count_for_nothing(case: Case, way: dict) -> None:
    H = case.H.clone()
    dead = [3, 64, 255]
    H[dead] = 0
    H[:, dead] = 0
    W = case.W.clone()
    W[:, dead] = 100.0
    done = gptq(W, Case(W, H).stats, get("int4_g64"), **way).dequantize()
    assert (done[:, dead] == 0).all()
    W[:, dead] = 0
    assert torch.equal(done, gptq(W, Case(W, H).stats, get("int4_g64"), **way).dequantize())


def test_nothing_that_was_given_is_changed(case: Case) -> None:
    W, stats = case.W.clone(), case.stats
    H = stats.H.clone()
    gptq(W, stats, get("int4_g64"))
    assert torch.equal(W, case.W)
    assert torch.equal(stats.H, H)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_and_statistics_of_other_types(case: Case, dtype: torch.dtype) -> None:
    W = case.W.to(dtype)
    stats = LayerStats(300, case.H.double(), case.stats.x_absmean, case.stats.x_absmax)
    assert torch.equal(
        gptq(W, stats, get("int4_g64")).dequantize(), gptq(W.float(), case.stats, get("int4_g64")).dequantize()
    )


def test_mistakes_are_told_in_one_sentence(case: Case) -> None:
    fmt = get("int4_g64")
    with pytest.raises(ValueError, match="gptq needs the statistics of the layer's input; calibrate first"):
        gptq(case.W, None, fmt)
    with pytest.raises(ValueError, match="they belong to another layer"):
        gptq(case.W[:, :64], case.stats, fmt)
    with pytest.raises(ValueError, match="damp must be a number from 0, got -1"):
        gptq(case.W, case.stats, fmt, damp=-1)
    with pytest.raises(ValueError, match="damp must be a number from 0, got nan"):
        gptq(case.W, case.stats, fmt, damp=float("nan"))
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        gptq(case.W, case.stats, fmt, block=0)
    with pytest.raises(ValueError, match="do not divide into groups of 64"):
        gptq(case.W[:, :100], stats_of(torch.randn(9, 100)), fmt)
    with pytest.raises(ValueError, match="weights must be finite"):
        gptq(case.W.masked_fill(case.W > 2, torch.nan), case.stats, fmt)
    with pytest.raises(ValueError, match="at least one layer"):
        gptq_many([], case.stats, fmt)


@pytest.mark.parametrize("static_groups", [True, False])
def test_rows_that_do_not_divide_are_refused_either_way(static_groups: bool) -> None:
    stats = stats_of(torch.randn(9, 100))
    with pytest.raises(ValueError, match="do not divide into groups of 64"):
        gptq(torch.randn(8, 100), stats, get("int4_g64"), act_order=False, static_groups=static_groups)


def test_too_few_inputs_without_dampening_are_an_error() -> None:
    stats = stats_of(torch.ones(4, 64))
    with pytest.raises(ValueError, match=r"H has no inverse with damp=0: .* calibrate with more text, or raise damp"):
        gptq(torch.randn(8, 64), stats, get("int4_g64"), damp=0)
    assert gptq(torch.randn(8, 64), stats, get("int4_g64")).shape == (8, 64)


def test_the_catalog_knows_it() -> None:
    method = catalog.get("gptq")
    assert (method.quantize, method.together, method.needs_stats) == (gptq, gptq_many, True)
