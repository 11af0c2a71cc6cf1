"""SmoothQuant's scale: the formula, llm-compressor's own on the same layer, and what W8A8 gains by it."""

from __future__ import annotations

import pytest
import torch
from layer_inputs import MODELS, Layer, real_layers, stats_of
from torch import Tensor

from quantlab.formats.catalog import get
from quantlab.methods import catalog
from quantlab.methods.rtn import rtn
from quantlab.methods.smoothquant import FLOOR, smoothing

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def _shared(model: str, block: int) -> tuple[list[Tensor], Tensor]:
    """The weights of q, k and v, and their input."""
    layers = [real_layers(model)[f"{block}.{name}"] for name in QKV]
    return [layer.W for layer in layers], layers[0].X


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.85, 1.0])
def test_the_scale_is_llm_compressors(model: str, alpha: float) -> None:
    """Its own function on the same weights and activations; where its range is 2 max|X|, 2^(2 alpha - 1) times ours."""
    from llmcompressor.modifiers.transform.smoothquant.base import SmoothQuantModifier

    Ws, X = _shared(model, 1)
    X = torch.cat([X, -X])  # as far below zero as above
    layers = [torch.nn.Linear(W.shape[1], W.shape[0], bias=False) for W in Ws]
    for layer, W in zip(layers, Ws, strict=True):
        layer.weight.data.copy_(W)
    with torch.no_grad():
        theirs = SmoothQuantModifier(smoothing_strength=alpha)._calculate_smoothing_scales(
            layers, X.amax(0) - X.amin(0)
        )
    ours = smoothing(Ws, stats_of(X), get("int8"), alpha=alpha) * 2 ** (2 * alpha - 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    if alpha == 0.5:
        assert (ours / theirs - 1).abs().max() < 2**-21  # a power and a quotient, each rounded once


@pytest.mark.parametrize("model", MODELS)
def test_at_one_half_both_sides_of_a_channel_get_the_same_size(model: str) -> None:
    Ws, X = _shared(model, 0)
    scale = smoothing(Ws, stats_of(X), get("int8"))
    torch.testing.assert_close((X / scale).abs().amax(0), (torch.cat(Ws) * scale).abs().amax(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_layer_computes_the_same_function(alpha: float) -> None:
    Ws, X = _shared("tiny", 0)
    scale = smoothing(Ws, stats_of(X), get("int8"), alpha=alpha)
    torch.testing.assert_close((X / scale) @ (Ws[0] * scale).T, X @ Ws[0].T, rtol=1e-4, atol=1e-4)


def _w8a8_error(layer: Layer, scale: Tensor | float) -> float:
    """The output error of int8 weights times int8 activations with one scale for each token."""
    X, W = layer.X / scale, layer.W * scale
    step = X.abs().amax(1, keepdim=True) / 127
    Y = ((X / step).round() * step) @ rtn(W, None, get("int8")).dequantize().T
    return float((Y - layer.X @ layer.W.T).square().sum())


def test_eight_bit_activations_gain_where_they_have_outliers() -> None:
    """SmolLM2's attention inputs have channels 20 times the others; the story model's have not."""
    gains = {}
    for model in MODELS:
        Ws, X = _shared(model, 1)
        layer = Layer(torch.cat(Ws), X)
        gains[model] = _w8a8_error(layer, 1.0) / _w8a8_error(layer, smoothing(Ws, layer.stats, get("int8")))
    assert gains["smollm2"] > 2
    wrong = smoothing(Ws, layer.stats, get("int8"))
    assert _w8a8_error(layer, 1 / wrong) > _w8a8_error(layer, wrong)  # divided where it should multiply


def test_channels_without_inputs_or_weights_keep_a_finite_scale() -> None:
    X, W = torch.randn(20, 8), torch.randn(4, 8)
    X[:, 2], W[:, 5] = 0, 0
    scale = smoothing([W], stats_of(X), get("int8"))
    assert scale[2] == torch.tensor(FLOOR)
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()


def test_mistakes_are_told_in_one_sentence() -> None:
    W, stats = torch.randn(4, 8), stats_of(torch.randn(20, 8))
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="alpha must be from 0"):
            smoothing([W], stats, get("int8"), alpha=alpha)
    with pytest.raises(ValueError, match="they belong to another layer"):
        smoothing([torch.randn(4, 16)], stats, get("int8"))
    with pytest.raises(ValueError, match="at least one layer"):
        smoothing([], stats, get("int8"))


def test_the_catalog_knows_it() -> None:
    method = catalog.get("smoothquant")
    assert (method.quantize, method.scale, method.needs_stats, method.norms_only) == (rtn, smoothing, True, True)
