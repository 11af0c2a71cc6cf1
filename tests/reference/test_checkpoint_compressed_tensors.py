"""Our checkpoint against the libraries that write and load it: llm-compressor's files, transformers' logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoint_cases import Layers, different, quantize, weights_of
from torch import Tensor
from verify_cases import faults_of_weights

from quantlab.backends.loading import logits_of
from quantlab.checkpoints.read import read_checkpoint
from quantlab.checkpoints.verify import verify
from quantlab.checkpoints.write import write_checkpoint
from quantlab.evaluate.rounded import Judge
from quantlab.models.load import LoadedModel

BF16 = {"scale_dtype": "bfloat16"}
SCHEMES = {  # llm-compressor's name -> our format
    "W4A16": ("int4_g128", BF16),
    "W4A16_ASYM": ("int4_g128", {**BF16, "symmetric": False}),
    "W3A16": ("int3_g128", BF16),
    "W8A16": ("int8", {**BF16, "group": 128}),
    "W8A8": ("int8", BF16),
    "FP8_DYNAMIC": ("fp8_e4m3_channel", {"scale_dtype": torch.bfloat16}),
    "FP8_BLOCK": ("fp8_e4m3_block128", {"scale_dtype": torch.bfloat16}),
    "NVFP4A16": ("nvfp4", {}),
    "MXFP4A16": ("mxfp4", {}),
}


@pytest.fixture(scope="module")
def write(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Layers]]:
    """write("W4A16"): our checkpoint of the whole model, and its layers."""

    def ours(scheme: str) -> tuple[Path, Layers]:
        fmt, options = SCHEMES[scheme]
        layers = quantize(weights_of(tiny_folder), fmt, **options)
        return write_checkpoint(tiny_folder, tmp_path_factory.mktemp("ours") / scheme, layers), layers

    return ours


@pytest.mark.parametrize("scheme", [*SCHEMES, "MXFP4"])
def test_llm_compressor_writes_the_same(
    scheme: str, tiny_folder: Path, write: Callable[[str], tuple[Path, Layers]], tmp_path: Path
) -> None:
    """The same tensors, byte for byte, and the same settings; MXFP4 differs from MXFP4A16 in that it rounds inputs."""
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"]))
    model.save_pretrained(tmp_path / "theirs", save_compressed=True)
    folder, layers = write(scheme if scheme in SCHEMES else "MXFP4A16")
    assert different(folder, tmp_path / "theirs") == []
    configs = [json.loads((where / "config.json").read_text()) for where in (folder, tmp_path / "theirs")]
    settings = [config["quantization_config"] for config in configs]
    if scheme == "MXFP4":
        assert settings[1]["config_groups"]["group_0"].pop("input_activations")["dynamic"] is True
        assert settings[0]["config_groups"]["group_0"].pop("input_activations") is None
    assert settings[0] == settings[1]
    assert faults_of_weights(tmp_path / "theirs") == []
    assert verify(folder).ok
    read = read_checkpoint(tmp_path / "theirs")
    assert read.keys() == layers.keys()
    assert all(read[name].to_bytes() == Q.to_bytes() for name, Q in layers.items())
    assert all(torch.equal(read[name].dequantize(), Q.dequantize()) for name, Q in layers.items())


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name not in ("W8A8", "FP8_DYNAMIC", "FP8_BLOCK")])
def test_transformers_predicts_what_our_weights_predict(
    scheme: str, tiny: LoadedModel, write: Callable[[str], tuple[Path, Layers]]
) -> None:
    folder, layers = write(scheme)
    assert (logits_of(folder, ids_of(tiny)) - expected(tiny, layers)).abs().max() < 1e-3


@pytest.mark.parametrize("scheme", ["W8A8", "FP8_DYNAMIC", "FP8_BLOCK"])
def test_transformers_rounds_inputs_as_the_settings_say(
    scheme: str, tiny: LoadedModel, write: Callable[[str], tuple[Path, Layers]]
) -> None:
    folder, layers = write(scheme)
    hook = partial(_rounded, scheme=scheme)
    handles = [tiny.model.get_submodule(name).register_forward_pre_hook(hook) for name in layers]
    ours = expected(tiny, layers)
    for handle in handles:
        handle.remove()
    theirs = logits_of(folder, ids_of(tiny))
    assert (theirs - ours).abs().max() < 1e-3
    assert (theirs - expected(tiny, layers)).abs().max() > 1e-2, "rounding inputs changes something"


def _rounded(module: object, args: tuple[Tensor, ...], scheme: str) -> tuple[Tensor]:
    """Inputs on 8 bits as they come: a scale for each token, or for each 128 channels of it."""
    (x,) = args
    groups = x.unflatten(-1, (-1, 128 if scheme == "FP8_BLOCK" else x.shape[-1]))
    top = groups.abs().amax(-1, keepdim=True)
    if scheme == "W8A8":
        scale = top / 127.5
        return (((groups / scale).round().clamp(-128, 127) * scale).flatten(-2),)
    scale = top / 448
    return (((groups / scale).to(torch.float8_e4m3fn).float() * scale).flatten(-2),)


def ids_of(tiny: LoadedModel) -> Tensor:
    ids: Tensor = tiny.tokenizer("Once upon a time there was a little boat.", return_tensors="pt")["input_ids"]
    return ids


def expected(tiny: LoadedModel, layers: Layers) -> Tensor:
    """The logits of our weights, in bfloat16 as transformers holds them."""
    rounded = {name: Q.dequantize().bfloat16().float() for name, Q in layers.items()}
    return Judge(tiny, stories=2).logits(rounded, ids_of(tiny))
