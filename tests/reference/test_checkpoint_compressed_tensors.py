"""Our checkpoint against the library that loads it: same bytes as llm-compressor's, same predictions, same refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantlab.backends.loading import logits_of
from quantlab.checkpoints.compressed_tensors import verify, write_checkpoint
from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError
from quantlab.evaluate.rounded import Judge
from quantlab.formats.catalog import quantize_tensor
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers

FORMATS = [("int4_g128", {}), ("int4_g128", {"symmetric": False}), ("int3_g128", {})]


def _quantized(tiny: LoadedModel, fmt: str, **options: object) -> dict[str, QuantizedTensor]:
    layers = ((name, layer.weight.detach().bfloat16()) for name, layer in linear_layers(tiny.model))
    return {name: quantize_tensor(W, fmt, scale_dtype="bfloat16", **options) for name, W in layers}


@pytest.fixture(scope="module")
def quantized(tiny: LoadedModel) -> dict[str, QuantizedTensor]:
    return _quantized(tiny, "int4_g128")


@pytest.fixture(scope="module")
def checkpoint(
    tiny_folder: Path, quantized: dict[str, QuantizedTensor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_checkpoint(tiny_folder, tmp_path_factory.mktemp("checkpoint") / "int4", quantized)


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "broken"))


def test_llm_compressor_writes_the_same_tensors(tiny_folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]))
    model.save_pretrained(tmp_path / "theirs", save_compressed=True)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "theirs"))
    assert ours.keys() == theirs.keys()
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert different == []


@pytest.mark.parametrize(("fmt", "options"), FORMATS, ids=str)
def test_transformers_predicts_what_our_weights_predict(
    tiny: LoadedModel, tiny_folder: Path, tmp_path: Path, fmt: str, options: dict[str, object]
) -> None:
    quantized = _quantized(tiny, fmt, **options)
    folder = write_checkpoint(tiny_folder, tmp_path / "out", quantized)
    assert len(verify(folder)) == len(quantized)
    ids = tiny.tokenizer("Once upon a time there was a little boat.", return_tensors="pt")["input_ids"]
    rounded = {name: Q.dequantize().bfloat16().float() for name, Q in quantized.items()}  # as transformers holds them
    expected = Judge(tiny, stories=2).logits(rounded, ids)
    assert (logits_of(folder, ids) - expected).abs().max() < 1e-3


def test_the_folder_holds_tokenizer_and_settings(checkpoint: Path) -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {
        path.name for path in checkpoint.iterdir()
    }
    settings = json.loads((checkpoint / "config.json").read_text())["quantization_config"]
    assert settings["ignore"] == ["lm_head"]
    assert settings["config_groups"]["group_0"]["weights"]["group_size"] == 128


def test_a_layer_left_out_is_ignored(tiny_folder: Path, quantized: dict[str, QuantizedTensor], tmp_path: Path) -> None:
    most = {name: Q for name, Q in quantized.items() if "down_proj" not in name}
    settings = json.loads((write_checkpoint(tiny_folder, tmp_path / "most", most) / "config.json").read_text())
    assert "model.layers.0.mlp.down_proj" in settings["quantization_config"]["ignore"]


def test_the_wrong_group_is_caught(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = 64
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantlabError, match=r"groups of 128; config.json says groups of 64"):
        verify(broken)


def test_the_wrong_bits_are_caught(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantlabError, match="8-bit codes of"):
        verify(broken)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_bad_scale_is_caught(broken: Path, bad: float) -> None:
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight_scale"][3, 1] = bad
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(QuantlabError, match=r"model.layers.2.mlp.up_proj has a scale that is not a positive number"):
        verify(broken)


def test_a_missing_scale_is_caught(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight_scale"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(QuantlabError, match="no weight_scale"):
        verify(broken)


def test_a_plain_model_is_no_such_checkpoint(tiny_folder: Path) -> None:
    with pytest.raises(QuantlabError, match="holds no compressed-tensors settings"):
        verify(tiny_folder)


def test_what_cannot_be_written(tiny_folder: Path, quantized: dict[str, QuantizedTensor], tmp_path: Path) -> None:
    name, Q = next(iter(quantized.items()))
    other = quantize_tensor(torch.randn(*Q.shape), "nf4")
    for layers, words in (
        ({}, "one format here, got none"),
        ({name.replace("q_proj", "q_prof"): Q}, "did you mean"),
        ({name: quantize_tensor(torch.randn(8, 128), "int4_g128")}, "take its own"),
        ({name: other}, "no integer format of compressed-tensors"),
        ({name: other, "model.layers.1.self_attn.q_proj": Q}, "one format here, got int4_g128, nf4"),
    ):
        with pytest.raises(QuantlabError, match=words):
            write_checkpoint(tiny_folder, tmp_path / "out", layers)
    assert list(tmp_path.iterdir()) == []
