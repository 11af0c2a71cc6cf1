"""IQ4_NL and IQ4_XS against llama.cpp's C code, byte for byte, with and without importance."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from block32_checks import (
    check_every_byte,
    check_golden,
    check_hard_weights,
    check_importance_helps,
    check_layer,
    importances,
)
from ggml_oracle import Ggml
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from gguf_weights import random
from safetensors import safe_open

from quantlab.formats.catalog import quantize_tensor
from quantlab.formats.gguf_iq4 import VALUES, nearest_code
from quantlab.models.load import LoadedModel
from quantlab.models.smollm2 import smollm2_folder
from quantlab.models.walk import linear_layers

TYPES = ("iq4_nl", "iq4_xs")
every_type = pytest.mark.parametrize("name", TYPES)


@every_type
def test_every_golden_hash_is_ours(name: str) -> None:
    check_golden(name)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in TYPES for kind in importances(name)])
def test_same_bytes_and_values_on_hard_weights(name: str, kind: str, ggml: Ggml) -> None:
    check_hard_weights(name, kind, ggml)


@every_type
def test_same_bytes_on_layers_of_the_bundled_model(name: str, tiny: LoadedModel, ggml: Ggml) -> None:
    for _, layer in list(linear_layers(tiny.model))[:7]:
        check_layer(name, layer.weight.detach()[:32], ggml)


@every_type
def test_same_bytes_on_a_layer_of_smollm2(name: str, ggml: Ggml) -> None:
    with safe_open(smollm2_folder() / "model.safetensors", "pt") as file:
        check_layer(name, file.get_slice("model.layers.3.mlp.down_proj.weight")[:64], ggml)


@every_type
def test_every_byte_decodes_as_in_c(name: str, ggml: Ggml) -> None:
    check_every_byte(name, ggml, numbers=1)


@every_type
def test_the_gguf_package_reads_it_as_we_do(name: str) -> None:
    ours = quantize_tensor(random(), name)
    theirs = dequantize(ours.parts["blocks"].numpy(), GGMLQuantizationType[name.upper()])
    assert torch.equal(ours.dequantize(), torch.from_numpy(theirs))


@every_type
def test_importance_lowers_the_weighted_error(name: str) -> None:
    check_importance_helps(name)


def test_the_nearest_level_is_cs_search_among_them() -> None:
    """At every boundary, one float32 to either side, and far outside."""
    middles = torch.tensor([(a + b) / 2 for a, b in pairwise(VALUES)])
    near = [middles, *(torch.nextafter(middles, torch.tensor(far)) for far in (9e9, -9e9))]
    x = torch.cat([*near, torch.tensor([-1e6, -128.0, -127.0, 0.0, -0.0, 1e-38, 113.0, 127.9, 1e6])])
    levels = torch.tensor(VALUES, dtype=torch.float32)
    away = (x[:, None].double() - levels).abs()
    nearest = 15 - away.flip(-1).argmin(-1)  # of two equally near, the upper
    assert torch.equal(nearest_code(x).long(), nearest)


@every_type
def test_scales_beyond_float16(name: str) -> None:
    with pytest.raises(ValueError, match="beyond a float16 scale"):
        quantize_tensor(random() * 1e9, name)
