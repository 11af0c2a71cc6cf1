"""Every kind of checkpoint: what is written comes back byte for byte, and what does not belong together is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cases import CASES, Layers, Weights, quantize, weights_of
from random_llama import write_llama
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantlab.checkpoints.kinds import KINDS, kind_for, kind_of
from quantlab.checkpoints.read import dequantized, outline, read_checkpoint
from quantlab.checkpoints.write import write_checkpoint
from quantlab.errors import QuantlabError
from quantlab.formats import pack_quantized
from quantlab.formats.catalog import FORMATS, get
from quantlab.models.folder import examine

BLOCK = "model.layers.0."
UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def block(tiny_folder: Path) -> Weights:
    return weights_of(tiny_folder, BLOCK)


@pytest.fixture
def written(tiny_folder: Path, block: Weights, tmp_path: Path) -> Callable[[str], Path]:
    """written("nf4"): a checkpoint whose first block is in that format, to read or to break."""
    return lambda case: write_checkpoint(tiny_folder, tmp_path / "out", CASES[case][1](block))


def change_settings(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_comes_back(
    case: str, tiny_folder: Path, block: Weights, written: Callable[[str], Path]
) -> None:
    kind, make = CASES[case]
    folder, quantized = written(case), make(block)
    assert kind_of(json.loads((folder / "config.json").read_text())) is KINDS[kind]
    found = read_checkpoint(folder)
    assert found.keys() == quantized.keys()
    for name, Q in quantized.items():
        same(found[name], Q)
    values, before = dequantized(folder), load_file(tiny_folder / "model.safetensors")
    assert values.keys() == before.keys()
    for name, W in values.items():
        layer = quantized.get(name.removesuffix(".weight"))
        assert torch.equal(W, before[name] if layer is None else layer.dequantize()), name
        assert W.dtype == (torch.bfloat16 if layer is None else torch.float32)


def same(ours: Any, theirs: Any) -> None:
    assert list(ours.parts) == list(theirs.parts)
    for name, part in theirs.parts.items():
        assert ours.parts[name].dtype == part.dtype, name
        assert ours.parts[name].shape == part.shape, name
    assert ours.to_bytes() == theirs.to_bytes()
    assert ours.fmt.name == theirs.fmt.name
    assert torch.equal(ours.dequantize(), theirs.dequantize())


def test_every_format_of_the_catalog_has_a_kind_or_is_refused() -> None:
    gguf = {name for name, fmt in FORMATS.items() if fmt.reference.package == "llama.cpp"}
    homeless = {name for name, fmt in FORMATS.items() if not any(kind.holds(fmt) for kind in KINDS.values())}
    assert gguf < homeless
    assert homeless - gguf == {"fp8_e5m2"}
    for name in homeless:
        with pytest.raises(QuantlabError, match=f"^{name} is in no checkpoint"):
            kind_for(FORMATS[name])


def test_each_format_has_one_kind() -> None:
    for fmt in FORMATS.values():
        assert sum(kind.holds(fmt) for kind in KINDS.values()) <= 1


def test_an_outline_loads_no_weights(written: Callable[[str], Path]) -> None:
    folder = written("int4, asymmetric")
    found = outline(folder)
    layer = found.layers[UP]
    assert (layer.fmt, layer.shape) == (get("int4_g64", symmetric=False, scale_dtype="bfloat16"), (1024, 512))
    assert layer.parts["weight_packed"].shape == (1024, 64)
    assert "model.norm.weight" in found.plain
    assert not any("layers.0." in name and "proj" in name for name in found.plain)


def test_biases_stay_beside_their_layer(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "biased", attention_bias=True, mlp_bias=True)
    quantized = quantize(weights_of(source), "awq_int4_g32")
    values = dequantized(write_checkpoint(source, tmp_path / "out", quantized))
    before = load_file(source / "model.safetensors")
    assert values.keys() == before.keys()
    assert torch.equal(values[f"{UP}.bias"], before[f"{UP}.bias"])


def test_sizes_that_fill_no_word_and_no_block(tmp_path: Path) -> None:
    """Rows of 40 weights: codes of 3 bits end inside a word, blocks of bitsandbytes run on into the next row."""
    source = write_llama(tmp_path / "odd", hidden_size=40, intermediate_size=24, head_dim=10, num_key_value_heads=4)
    for fmt in (
        pack_quantized.build("int3", bits=3, group=None, scale_dtype="bfloat16"),
        get("nf4"),
        get("nf4_dq"),
        get("fp8_e4m3_block128"),
    ):
        quantized = quantize(weights_of(source), fmt)
        found = read_checkpoint(write_checkpoint(source, tmp_path / fmt.name, quantized))
        for name, Q in quantized.items():
            same(found[name], Q)


def _set(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda settings: settings.update(changes)


def _weights(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda settings: settings["config_groups"]["group_0"]["weights"].update(changes)


@pytest.mark.parametrize(
    ("case", "change", "words"),
    [
        ("awq_int4_g128", _set(group_size=64), "a scale for each 128 weights of a row, config.json says groups of 64"),
        ("awq_int4_g128", _set(group_size=96), "groups of 96 do not divide"),
        ("awq_int4_g128", _set(group_size="128"), "group_size is '128'"),
        ("awq_int4_g128", _set(bits=8), "4 bits, not gemm of 8"),
        ("awq_int4_g128", _set(version="gemv"), "not gemv of 4"),
        ("gptq_int4_g128", _set(group_size=64), "a scale for each 128 weights"),
        ("gptq_int4_g128", _set(bits=8), "config.json and the weights do not agree"),
        ("gptq_int4_g128", _set(bits=5), "GPTQ packs 2, 3, 4 or 8 bits, got 5"),
        ("gptq_int4_g128", _set(checkpoint_format="marlin"), "'marlin'"),
        ("int4, packed", _weights(group_size=64), "each 128 weights of a row, config.json says groups of 64"),
        ("int4, packed", _weights(num_bits=8), "config.json and the weights do not agree"),
        ("int4, packed", _weights(num_bits=16), "bits must be from 2 to 8"),
        ("int4, packed", _weights(num_bits=float("inf")), "makes no sense"),
        ("int4, packed", _weights(symmetric=False), "no weight_zero_point"),
        ("int4, packed", _weights(strategy="block"), "strategy 'block'"),
        ("int4, packed", lambda s: s["config_groups"].update(more={}), "2 groups of settings"),
        ("int4, packed", lambda s: s.pop("config_groups"), "no 'config_groups'"),
        ("int4, packed", _set(config_groups=[1]), "makes no sense"),
        ("int8", _weights(num_bits=4), "codes of 8 bits, config.json says 4"),
        ("fp8_e4m3", _weights(strategy="channel"), "needs F16 or BF16 or F32 \\[512, 1\\]"),
        ("mxfp4", _weights(group_size=16), "groups of 32, not 16"),
        ("nvfp4", _weights(num_bits=8), "codes of 4 bits, config.json says 8"),
        ("nf4", _set(bnb_4bit_quant_type="fp4"), "no weight.quant_state.bitsandbytes__fp4"),
        ("nf4", _set(bnb_4bit_use_double_quant=True), "they say otherwise"),
        ("llm_int8", _set(load_in_8bit=False, load_in_4bit=True), "no weight.quant_state"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_tensors(
    case: str, change: Callable[[dict[str, Any]], object], words: str, written: Callable[[str], Path]
) -> None:
    folder = written(case)
    change_settings(folder, change)
    with pytest.raises(QuantlabError, match=words) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)


def _drop(part: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.pop(f"{UP}.{part}")


def _put(part: str, make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], object]:
    name = f"{UP}.{part}"
    return lambda tensors: tensors.update({name: make(tensors[name]).contiguous()})


@pytest.mark.parametrize(
    ("case", "change", "words"),
    [
        *((case, _drop(part), f"up_proj has .* but no {part}") for case, part in (
            ("awq_int4_g128", "qweight"), ("awq_int4_g128", "qzeros"), ("gptq_int4_g128", "g_idx"),
            ("int4, packed", "weight_packed"), ("int4, packed", "weight_scale"), ("int4, packed", "weight_shape"),
            ("nvfp4", "weight_global_scale"), ("fp8_e4m3", "weight"), ("nf4", "weight.absmax"),
            ("nf4_dq", "weight.nested_absmax"), ("llm_int8", "SCB"),
        )),
        ("awq_int4_g128", _put("qweight", lambda t: t[:-1]), "rows of 511 weights"),
        ("awq_int4_g128", _put("scales", lambda t: t.to(torch.int16)), "is I16"),
        ("gptq_int4_g128", _put("g_idx", lambda t: t + 1), "g_idx names group 4 of 4"),
        ("gptq_int4_g128", _put("g_idx", lambda t: t - 1), "g_idx names group -1 of 4"),
        ("int4, packed", _put("weight_shape", lambda t: t * 2**40), "do not agree|one of the two is wrong"),
        ("int4, packed", _put("weight_shape", lambda t: -t), "has shape"),
        ("int4, packed", _put("weight_shape", lambda t: torch.zeros(2**20)), "64|65,536 are plenty"),
        ("nf4", _put("weight.quant_map", lambda t: t.flip(0)), "holds other levels than those of nf4"),
        ("nf4", _put("weight.quant_state.bitsandbytes__nf4", lambda t: t[:-9]), "makes no sense"),
        ("nf4", _put("weight.quant_state.bitsandbytes__nf4", lambda t: t[:2] * 0 + 49), "no JSON object"),
        ("nf4", _put("weight.quant_state.bitsandbytes__nf4", lambda t: t.repeat(2**11)), "are plenty"),
        ("nf4", _put("weight.quant_state.bitsandbytes__nf4", lambda t: t[:1].repeat(2**15) * 0 + 91), "makes no sense"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_the_settings(
    case: str, change: Callable[[dict[str, Tensor]], object], words: str, written: Callable[[str], Path]
) -> None:
    folder = written(case)
    change_tensors(folder, change)
    with pytest.raises(QuantlabError, match=words) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_what_is_no_quantized_checkpoint(tiny_folder: Path, written: Callable[[str], Path]) -> None:
    with pytest.raises(QuantlabError, match="is not quantized"):
        read_checkpoint(tiny_folder)
    with pytest.raises(QuantlabError, match=r"cannot read .*config\.json"):
        read_checkpoint(tiny_folder / "nothing")
    folder = written("nf4")
    change_settings(folder, _set(quant_method="aqlm"))
    with pytest.raises(QuantlabError, match="quantized by 'aqlm', which is not read here; known are awq, gptq"):
        read_checkpoint(folder)
    change_settings(folder, _set(quant_method="awq"))
    with pytest.raises(QuantlabError, match=r"holds no quantized layer, yet its config\.json says awq"):
        read_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": "awq"}))
    with pytest.raises(QuantlabError, match="quantized by 'awq'"):
        read_checkpoint(folder)


def test_a_file_that_is_cut_short(written: Callable[[str], Path]) -> None:
    folder = written("mxfp4")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(QuantlabError, match="cut short"):
        read_checkpoint(folder)


def layers_of(folder: Path) -> Layers:
    return quantize(weights_of(folder), "int4_g32", scale_dtype="bfloat16")


@pytest.mark.parametrize(("tied", "kept"), [(True, ["lm_head"]), (False, ["lm_head"])])
def test_the_output_head_is_left_out(tied: bool, kept: list[str], tmp_path: Path) -> None:
    source = write_llama(tmp_path / "source", tie_word_embeddings=tied)
    config = examine(write_checkpoint(source, tmp_path / "out", layers_of(source))).config
    assert config["quantization_config"]["ignore"] == kept


def test_layers_that_are_left_out_are_named(tmp_path: Path) -> None:
    source = write_llama(tmp_path / "source")
    weights = {name: W for name, W in weights_of(source).items() if "down_proj" not in name}
    down = [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
    spelled = {
        "awq_int4_g32": ("modules_to_not_convert", down),
        "gptq_int4_g32": ("dynamic", {f"-:^model\\.layers\\.{i}\\.mlp\\.down_proj$": {} for i in range(2)}),
        "int8": ("ignore", ["lm_head", *down]),
        "nf4": ("llm_int8_skip_modules", ["lm_head", *down]),
    }
    for fmt, (key, names) in spelled.items():
        folder = write_checkpoint(source, tmp_path / fmt, quantize(weights, fmt))
        assert examine(folder).config["quantization_config"][key] == names
        assert read_checkpoint(folder).keys() == weights.keys()
