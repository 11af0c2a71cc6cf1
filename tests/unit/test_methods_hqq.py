"""HQQ: never worse than rounding to nearest by its own measure, on any group, and what it says to a mistake."""

from __future__ import annotations

import pytest
import torch
from gptq_laws import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_inputs import MODELS, real_layers
from torch import Tensor

from quantlab.core import QuantizedTensor
from quantlab.formats.catalog import get
from quantlab.formats.int_affine import IntAffine
from quantlab.formats.int_rounding import ROUNDINGS
from quantlab.methods import catalog
from quantlab.methods.hqq import hqq, shrink
from quantlab.methods.rtn import rtn

INTEGER = ("int8", "int4_g64", "int3_g64", "int2_g64", "awq_int4_g64", "gptq_int4_g64")


def _cost(W: Tensor, done: QuantizedTensor, group: int) -> Tensor:
    """sum |w - w_hat|^0.7 of each group, float64."""
    error = (W.double() - done.dequantize().double()).abs().pow(0.7)
    return error.reshape(len(W), -1, group).sum(-1)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", INTEGER)
def test_no_group_of_a_real_layer_is_worse_and_the_layer_is_better(model: str, name: str) -> None:
    fmt = get(name)
    for layer in ("0.self_attn.q_proj", "0.mlp.down_proj"):
        W = real_layers(model)[layer].W[:64]
        group = fmt.grid.group or W.shape[1]  # type: ignore[attr-defined]
        ours, near = _cost(W, hqq(W, None, fmt), group), _cost(W, rtn(W, None, fmt), group)
        assert (ours <= near * (1 + 1e-6)).all()
        assert ours.sum() < near.sum() * (1 if name == "int8" else 0.99)  # 255 levels leave little to gain


@given(
    st.integers(0, 2**32 - 1), st.integers(2, 8), st.booleans(), st.sampled_from(sorted(ROUNDINGS)),
    st.sampled_from([1e-7, 1e-3, 1.0, 500.0]), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_nor_is_any_other(seed: int, bits: int, symmetric: bool, library: str, size: float, scales: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    W = size * torch.randn(3, 32, generator=generator).pow(3)
    W[1, 16:] = 0  # a group of zeros
    W[2, :16] = W[2, :16].abs()
    fmt = plain(IntAffine(bits, 16, symmetric, rounding=ROUNDINGS[library]))
    ours, near = _cost(W, hqq(W, None, fmt, scales=scales or symmetric), 16), _cost(W, rtn(W, None, fmt), 16)
    assert (ours <= near * (1 + 1e-6)).all()


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(-8, 8))
@settings(max_examples=30, deadline=None)
def test_it_works_at_any_size(seed: int, symmetric: bool, exponent: int) -> None:
    """Weights times 2^a: the same codes."""
    W = torch.randn(2, 32, generator=torch.Generator().manual_seed(seed))
    fmt = plain(IntAffine(4, 16, symmetric, torch.float32))
    once, other = hqq(W, None, fmt), hqq(W * 2.0**exponent, None, fmt)
    assert torch.equal(once.parts["q"], other.parts["q"])


def test_moving_whole_zero_points_alone_gains_nothing() -> None:
    """What the module says of formats that store z as a whole number."""
    W = real_layers("tiny")["0.self_attn.q_proj"].W
    fmt = get("awq_int4_g64")
    near, zeros, both = (_cost(W, done, 64).sum() for done in (
        rtn(W, None, fmt), hqq(W, None, fmt, scales=False), hqq(W, None, fmt)))  # fmt: skip
    assert 0.999 * near < zeros <= near
    assert both < 0.98 * near


def test_small_errors_are_not_accepted_and_large_ones_are() -> None:
    x = torch.tensor([0.0, 0.01, -0.1, 1.0, -3.0])
    e = shrink(x, 10.0, 0.7)
    assert torch.equal(e[:3], torch.zeros(3))
    assert torch.allclose(e[3:], torch.tensor([0.9, -(3 - 3**-0.3 / 10)]))


def test_a_shrink_with_the_wrong_sign_or_norm_is_told_apart() -> None:
    """e must lower what it is meant to minimize: |e|^p + beta/2 (e - x)^2."""
    x, beta, norm = torch.linspace(0.3, 3, 50), 10.0, 0.7

    def objective(e: Tensor) -> Tensor:
        return (e.abs() ** norm + beta / 2 * (e - x) ** 2).sum()

    good = objective(shrink(x, beta, norm))
    for wrong in (-shrink(x, beta, norm), x, torch.zeros_like(x), x + x ** (norm - 1) / beta):
        assert good < objective(wrong)


def test_mistakes_are_told_in_one_sentence() -> None:
    W, fmt = torch.randn(4, 64), get("int4_g64")
    for name in ("nf4", "q4_k"):
        with pytest.raises(ValueError, match=f"integer groups, {name} has none; take int4_g128"):
            hqq(W, None, get(name))
    with pytest.raises(ValueError, match="norm must be above 0 and at most 1, got 2"):
        hqq(W, None, fmt, norm=2)
    with pytest.raises(ValueError, match="beta must be above 0"):
        hqq(W, None, fmt, beta=0)
    with pytest.raises(ValueError, match="nothing left to move"):
        hqq(W, None, fmt, scales=False)
    with pytest.raises(ValueError, match="do not divide into groups"):
        hqq(W[:, :60], None, fmt)
    with pytest.raises(ValueError, match="weights must be finite"):
        hqq(W.log(), None, fmt)


def test_the_catalog_knows_it() -> None:
    method = catalog.get("hqq")
    assert method.quantize is hqq
    assert not method.needs_stats
