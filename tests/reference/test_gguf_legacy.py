"""Q4_0 to Q8_0 against llama.cpp's C code, byte for byte, with and without importance; and the gguf package."""

from __future__ import annotations

import pytest
import torch
from block32_checks import (
    check_every_byte,
    check_golden,
    check_hard_weights,
    check_importance_helps,
    check_layer,
    importances,
    rounds_every_product,
)
from ggml_oracle import Ggml
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from gguf_weights import WEIGHTS, random, stacked
from safetensors import safe_open

from quantlab.formats.catalog import quantize_tensor
from quantlab.models.load import LoadedModel
from quantlab.models.smollm2 import smollm2_folder
from quantlab.models.walk import linear_layers

TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
every_type = pytest.mark.parametrize("name", TYPES)


@every_type
def test_every_golden_hash_is_ours(name: str) -> None:
    check_golden(name)


def test_this_build_makes_the_golden_bytes(ggml: Ggml) -> None:
    """If only this fails: the compiler fused multiplication and addition, and the other tests allow for it."""
    assert rounds_every_product(ggml)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in TYPES for kind in importances(name)])
def test_same_bytes_and_values_on_hard_weights(name: str, kind: str, ggml: Ggml) -> None:
    check_hard_weights(name, kind, ggml)


@every_type
def test_same_bytes_on_layers_of_the_bundled_model(name: str, tiny: LoadedModel, ggml: Ggml) -> None:
    for _, layer in list(linear_layers(tiny.model))[:7]:
        check_layer(name, layer.weight.detach()[:32], ggml)


@every_type
@pytest.mark.parametrize("part", ["self_attn.q_proj", "mlp.down_proj"])
def test_same_bytes_on_layers_of_smollm2(name: str, part: str, ggml: Ggml) -> None:
    with safe_open(smollm2_folder() / "model.safetensors", "pt") as file:
        check_layer(name, file.get_slice(f"model.layers.3.{part}.weight")[:64], ggml)


@every_type
def test_every_byte_decodes_as_in_c(name: str, ggml: Ggml) -> None:
    check_every_byte(name, ggml, numbers=2 if name in ("q4_1", "q5_1") else 1)


@every_type
def test_the_gguf_package_agrees(name: str) -> None:
    """But where 1/d is infinite, or on the sign of a zero: numpy and C differ there, and weights become 0 anyway."""
    W = stacked(set(WEIGHTS) - {"denormal", "very denormal", "the smallest", "zeros"})
    kind, ours = GGMLQuantizationType[name.upper()], quantize_tensor(W, name)
    assert ours.to_bytes() == quantize(W.numpy(), kind).tobytes()
    assert torch.equal(ours.dequantize(), torch.from_numpy(dequantize(ours.parts["blocks"].numpy(), kind)))


@pytest.mark.parametrize("name", [name for name in TYPES if name != "q8_0"])
def test_importance_lowers_the_weighted_error(name: str) -> None:
    check_importance_helps(name)


@every_type
def test_scales_beyond_float16(name: str) -> None:
    with pytest.raises(ValueError, match="beyond a float16 scale"):
        quantize_tensor(random() * 1e9, name)
