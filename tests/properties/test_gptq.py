"""Laws of GPTQ on layers that nobody thought of, and its promise on those of two real models."""

from __future__ import annotations

import pytest
import torch
from gptq_laws import Case, cases, grids, plain
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_inputs import MODELS, real_layers

from quantlab.core import QuantizedTensor
from quantlab.formats.catalog import get
from quantlab.formats.int_affine import IntAffine
from quantlab.methods.gptq import factorize, gptq, gptq_many, sweep
from quantlab.methods.rtn import rtn

few = settings(max_examples=20, deadline=None)
ways = st.fixed_dictionaries({"act_order": st.booleans(), "static_groups": st.booleans(), "block": st.integers(1, 40)})


def _same(a: QuantizedTensor, b: QuantizedTensor) -> bool:
    return all(torch.equal(a.parts[name], b.parts[name]) for name in ("q", "scale", "zero"))


@given(cases(), grids(), ways, st.sampled_from([0.25, 1.0, 8.0]))
@few
def test_inputs_that_say_nothing_of_each_other_make_it_round_to_nearest(
    case: Case, grid: IntAffine, way: dict, size: float
) -> None:
    """With static groups: the order of equals is anybody's guess, and would make up other groups."""
    apart = Case(case.W, size * torch.eye(len(case.H)))
    way["static_groups"] |= way["act_order"]
    done = gptq(apart.W, apart.stats, plain(grid), **way)
    assert torch.equal(done.dequantize(), rtn(case.W, None, plain(grid)).dequantize())


@given(cases(), grids(), st.booleans(), st.integers(1, 40))
@few
def test_so_does_a_dampening_that_drowns_what_they_say(
    case: Case, grid: IntAffine, act_order: bool, block: int
) -> None:
    """Static groups: otherwise act order makes up groups of its own."""
    done = gptq(case.W, case.stats, plain(grid), damp=1e9, act_order=act_order, block=block)
    near = rtn(case.W, None, plain(grid))
    off = (done.dequantize() - near.dequantize()).abs()
    assert (off <= near.parts["scale"].max() * 1.001).all()  # a weight in the middle may go the other way
    assert (off > 0).double().mean() < 0.05


@given(cases(), grids(), ways)
@few
def test_weights_that_are_levels_already_stay(case: Case, grid: IntAffine, way: dict) -> None:
    """Nothing to make up for: every error is 0."""
    p = grid.fit(case.W)
    q = grid.encode(case.W, p)
    again, _ = sweep(grid.decode(q, p), factorize(case.H, act_order=way["act_order"]), grid, p, way["block"])
    assert torch.equal(grid.decode(again, p), grid.decode(q, p))


@given(cases(), grids(), ways, st.randoms(use_true_random=False))
@few
def test_rows_never_meet(case: Case, grid: IntAffine, way: dict, random: object) -> None:
    """Rows in another order, or alone, get the same codes; so layers that share an input may be stacked."""
    order = torch.randperm(len(case.W))
    whole = gptq(case.W, case.stats, plain(grid), **way)
    turned = gptq(case.W[order], case.stats, plain(grid), **way)
    assert torch.equal(whole.parts["q"][order], turned.parts["q"])
    parts = gptq_many([case.W[:1], case.W], case.stats, plain(grid), **way)
    assert torch.equal(parts[0].parts["q"], whole.parts["q"][:1])
    assert _same(parts[1], whole)


@given(cases(), st.integers(2, 8), st.booleans(), st.booleans())
@few
def test_act_order_does_not_care_for_the_order_it_is_given(
    case: Case, bits: int, symmetric: bool, static_groups: bool
) -> None:
    """One scale for each row: columns in another order get the same codes, in that order."""
    fmt = plain(IntAffine(bits, None, symmetric, torch.float32))
    order = torch.randperm(case.W.shape[1])
    turned = Case(case.W[:, order], case.H[order][:, order])
    q = gptq(case.W, case.stats, fmt, static_groups=static_groups).parts["q"]
    assert torch.equal(q[:, order], gptq(turned.W, turned.stats, fmt, static_groups=static_groups).parts["q"])


@given(cases(), grids(), ways, st.integers(-6, 6), st.integers(-3, 3))
@few
def test_powers_of_two_pass_through(case: Case, grid: IntAffine, way: dict, weights: int, inputs: int) -> None:
    """W times 2^a, X times 2^b: the same codes, the scales times 2^a."""
    once = gptq(case.W, case.stats, plain(grid), **way)
    other = Case(case.W * 2.0**weights, case.H * 4.0**inputs)
    twice = gptq(other.W, other.stats, plain(grid), **way)
    assert torch.equal(once.parts["q"], twice.parts["q"])
    assert torch.equal(once.parts["scale"] * 2.0**weights, twice.parts["scale"])


@given(cases(), grids())
@few
def test_the_last_column_is_the_nearest_to_what_is_left(case: Case, grid: IntAffine) -> None:
    """No other code of the last column has a smaller error, all others given: the sweep ends at a minimum."""
    p, damp = grid.fit(case.W), 0.01
    factor = factorize(case.H.double(), damp, dtype=torch.float64)
    q, _ = sweep(case.W.double(), factor, grid, p)
    best = case.error(grid.decode(q, p), damp)
    for step in (-1, 1):
        other = q.clone()
        other[:, -1] = (q[:, -1].int() + step).clamp(0, 2**grid.bits - 1).to(torch.uint8)
        assert case.error(grid.decode(other, p), damp) >= best * (1 - 1e-9)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("name", "way"),
    [("gptq_int4_g64", {}), ("int3_g64", {}), ("awq_int4_g64", {"act_order": False, "static_groups": False})],
)
def test_no_kind_of_real_layer_is_worse_than_rounded_to_nearest(model: str, name: str, way: dict) -> None:
    fmt = get(name)
    for kind in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
        layer = real_layers(model)[f"0.{kind}"]
        W, stats = layer.W[:32], layer.stats
        case = Case(W, stats.H)
        assert case.error(gptq(W, stats, fmt, **way).dequantize()) < case.error(rtn(W, None, fmt).dequantize()), kind
