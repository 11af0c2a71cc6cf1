"""Our bitsandbytes checkpoint against transformers and bitsandbytes: the same files, and the same model from ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from checkpoint_cases import Layers, different, quantize, weights_of
from torch import Tensor
from verify_cases import faults_of_weights

from quantlab.backends import bitsandbytes
from quantlab.checkpoints.read import read_checkpoint
from quantlab.checkpoints.write import write_checkpoint
from quantlab.evaluate.rounded import Judge
from quantlab.models.load import LoadedModel, quiet

SETTINGS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4_dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "fp4_dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "llm_int8": {"load_in_8bit": True},
}
every = pytest.mark.parametrize("fmt", SETTINGS)


def load(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet(), bitsandbytes.quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu", **options)


def ours(tiny_folder: Path, fmt: str, out: Path) -> tuple[Path, Layers]:
    layers = quantize(weights_of(tiny_folder), fmt)
    return write_checkpoint(tiny_folder, out, layers), layers


@every
def test_transformers_saves_the_same(fmt: str, tiny_folder: Path, tmp_path: Path) -> None:
    """Saved before any forward pass: on some CPUs the first one rearranges the codes, and ruins the file."""
    from transformers import BitsAndBytesConfig

    settings = SETTINGS[fmt]
    compute = {"bnb_4bit_compute_dtype": torch.bfloat16} if settings.get("load_in_4bit") else {}
    model = load(tiny_folder, quantization_config=BitsAndBytesConfig(**settings, **compute))
    model.save_pretrained(tmp_path / "theirs")
    folder, layers = ours(tiny_folder, fmt, tmp_path / "ours")
    assert different(folder, tmp_path / "theirs") == []
    configs = [json.loads((where / "config.json").read_text()) for where in (folder, tmp_path / "theirs")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]
    assert faults_of_weights(tmp_path / "theirs") == []
    read = read_checkpoint(tmp_path / "theirs")
    assert read.keys() == layers.keys()
    assert all(read[name].to_bytes() == Q.to_bytes() for name, Q in layers.items())


@every
def test_transformers_loads_our_weights(fmt: str, tiny: LoadedModel, tiny_folder: Path, tmp_path: Path) -> None:
    """Layer by layer as bitsandbytes dequantizes them, and the logits of the whole."""
    folder, layers = ours(tiny_folder, fmt, tmp_path / "ours")
    model = load(folder)
    for name, Q in layers.items():
        assert torch.equal(dequantize(model.get_submodule(name)), Q.dequantize().bfloat16()), name
    ids = tiny.tokenizer("Once upon a time there was a little boat.", return_tensors="pt")["input_ids"]
    with torch.inference_mode(), quiet():
        theirs = model.dequantize(dtype=torch.bfloat16).float()(ids).logits
    rounded = {name: Q.dequantize().bfloat16().float() for name, Q in layers.items()}
    assert (theirs - Judge(tiny, stories=2).logits(rounded, ids)).abs().max() < 1e-3


def dequantize(layer: Any) -> Tensor:
    weight = layer.weight
    if getattr(weight, "quant_state", None) is not None:
        W: Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
        return W
    return functional.int8_vectorwise_dequant(weight.data, weight.SCB).bfloat16()


def test_a_layer_left_out_is_loaded_as_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    weights = {name: W for name, W in weights_of(tiny_folder).items() if "down_proj" not in name}
    model = load(write_checkpoint(tiny_folder, tmp_path / "out", quantize(weights, "nf4")))
    name = "model.layers.2.mlp.down_proj"
    assert torch.equal(model.get_submodule(name).weight, weights_of(tiny_folder)[name])
    assert type(model.get_submodule("model.layers.2.mlp.up_proj")).__name__ == "Linear4bit"
