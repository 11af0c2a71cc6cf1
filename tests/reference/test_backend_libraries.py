"""Each production library for real, on the bundled model: what it writes is what was asked for, and is read here.

Each case starts a process that loads a library, which takes its time. QUANTLAB_ALL_LIBRARIES=1 runs every case, and
not just one for each library and way of storing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from made_checkpoints import EVERYTHING, Workshop, little_text, needs_environment

from quantlab.backends.quantizers.making import quantize
from quantlab.backends.quantizers.offers import Wish
from quantlab.checkpoints.manifest import check_manifest
from quantlab.checkpoints.read import outline, read_checkpoint
from quantlab.formats.gguf_head import read_head
from quantlab.models.folder import examine
from quantlab.models.walk import linear_layers

# library, method, format, other wishes -> kind, name of the format as it is read back, the least and most bits a weight
ALWAYS = [
    ("bitsandbytes", "rtn", "llm_int8", {}, "bitsandbytes", "llm_int8", 8, 8.1),
    ("autoawq", "awq", None, {}, "awq", "awq_int4_g128", 4.15, 4.16),
    ("llm-compressor", "gptq", None, {}, "compressed-tensors", "int4_g128", 4.12, 4.13),
    ("llm-compressor", "smoothquant_gptq", "w8a8", {}, "compressed-tensors", "int8", 8, 8.1),
    ("llm-compressor", "rtn", "nvfp4", {}, "compressed-tensors", "nvfp4", 4.5, 4.51),
    ("gptqmodel", "gptq", None, {"symmetric": False, "group": 64}, "gptq", "gptq_int4_g64", 4.31, 4.4),
]
MORE = [
    ("bitsandbytes", "rtn", "nf4", {}, "bitsandbytes", "nf4", 4.5, 4.51),
    ("bitsandbytes", "rtn", "nf4_dq", {}, "bitsandbytes", "nf4_dq", 4.12, 4.2),
    ("bitsandbytes", "rtn", "fp4", {}, "bitsandbytes", "fp4", 4.5, 4.51),
    ("autoawq", "awq", None, {"group": 64}, "awq", "awq_int4_g64", 4.31, 4.32),
    ("llm-compressor", "rtn", "int", {"group": 64, "symmetric": False}, "compressed-tensors", "int4_g64", 4.31, 4.32),
    ("llm-compressor", "smoothquant", "w8a8", {}, "compressed-tensors", "int8", 8, 8.1),
    ("llm-compressor", "rtn", "fp8", {}, "compressed-tensors", "fp8_e4m3_channel", 8, 8.1),
    ("llm-compressor", "rtn", "mxfp4", {}, "compressed-tensors", "mxfp4", 4.25, 4.26),
    ("gptqmodel", "gptq", None, {}, "gptq", "gptq_int4_g128", 4.15, 4.25),
    ("gptqmodel", "awq", None, {}, "awq", "awq_int4_g128", 4.15, 4.16),
]
FOLDERS = ALWAYS + (MORE if EVERYTHING else [])


def _name(case: tuple) -> str:
    return "-".join(str(part) for part in case[:3] if part) + "".join(f"-{value}" for value in case[3].values())


@pytest.mark.parametrize("case", FOLDERS, ids=_name)
def test_a_checkpoint(workshop: Workshop, tiny, tiny_folder: Path, case: tuple, monkeypatch) -> None:
    library, method, fmt, wishes, kind, name, least, most = case
    monkeypatch.setenv("LLM_COMPRESSOR_LOG_DISABLED", "true")  # a user's; llm-compressor's own GPTQ stumbles over it
    made = workshop.make(library, method, fmt, **wishes)
    found = outline(made.path)
    assert found.kind.name == kind
    assert {layer.fmt.name for layer in found.layers.values()} == {name}
    assert set(found.layers) == {layer for layer, _ in linear_layers(tiny.model)}
    assert least <= made.bits_per_weight < most
    assert made.nbytes == sum(path.stat().st_size for path in made.path.iterdir())

    _weights_resemble(made.path, tiny)
    manifest = check_manifest(made.path)
    assert manifest["model"] == "tiny"
    assert manifest["command"].startswith(f"quantlab quantize tiny --backend {library} --method {method}")
    assert (made.path / "tokenizer.json").read_bytes() == (tiny_folder / "tokenizer.json").read_bytes()
    assert "quantlab](" not in (made.path / "README.md").read_text().split("\n\n")[1]  # it was not us
    assert 100 * 2**20 < made.peak_bytes < 4 * 2**30
    text = little_text(library)
    assert made.tokens in (0, (text.window or 0) * (text.samples or 0))
    assert examine(made.path).config["quantization_config"]


def _weights_resemble(folder: Path, tiny) -> None:
    """Near enough to the original that layers were not mixed up, and not the original itself."""
    for name, stored in read_checkpoint(folder).items():
        W, W_hat = tiny.model.get_submodule(name).weight, stored.dequantize()
        same = torch.nn.functional.cosine_similarity(W.flatten(), W_hat.flatten(), dim=0)
        assert 0.9 < same < 1, name
        assert not torch.equal(W, W_hat)


@pytest.mark.parametrize("ftype", ["q4_k_m", "q8_0", "q2_k", "f16"] if EVERYTHING else ["q4_k_m"])
def test_a_gguf_file(workshop: Workshop, ftype: str) -> None:
    made = workshop.make("llama.cpp", "rtn", ftype)
    types = {info.type for info in read_head(made.path).tensors.values()}
    assert {"q4_k_m": "q4_k", "q8_0": "q8_0", "q2_k": "q2_k", "f16": "f16"}[ftype] in types
    assert made.nbytes == made.path.stat().st_size
    assert made.versions["llama_cpp_python"]


@pytest.mark.skipif(not EVERYTHING, reason="one more calibration with AutoAWQ: QUANTLAB_ALL_LIBRARIES=1 runs it")
def test_autoawq_without_its_search_for_ranges(workshop: Workshop, tmp_path: Path) -> None:
    made = quantize("tiny", Wish("autoawq"), tmp_path / "made", calibration=little_text("autoawq"), clip=False)
    with_ranges = workshop.make("autoawq")
    assert [one.settings["apply_clip"] for one in (made, with_ranges)] == [False, True]
    assert "--no-clip" in check_manifest(made.path)["command"]
    name = "model.layers.0.mlp.up_proj"
    scales = [read_checkpoint(one.path)[name].parts["scales"] for one in (made, with_ranges)]
    assert (scales[0] >= scales[1]).all()  # a clipped range is never wider
    assert not torch.equal(*scales)


@pytest.mark.skipif(not EVERYTHING, reason="one more calibration with llm-compressor: QUANTLAB_ALL_LIBRARIES=1 runs it")
def test_w4a4_asks_for_rounded_inputs(workshop: Workshop) -> None:
    made = workshop.make("llm-compressor", "rtn", "nvfp4_w4a4")
    settings = json.loads((made.path / "config.json").read_text())["quantization_config"]
    assert settings["config_groups"]["group_0"]["input_activations"]["num_bits"] == 4


@pytest.mark.parametrize("library", ["bitsandbytes", *(["llm-compressor", "gptqmodel"] if EVERYTHING else [])])
def test_layers_that_are_kept(workshop: Workshop, tmp_path: Path, tiny, library: str) -> None:
    needs_environment(library)
    text = little_text(library, calibrated=library != "bitsandbytes")
    made = quantize("tiny", Wish(library), tmp_path / "made", calibration=text, keep=["down_proj"])
    layers = set(outline(made.path).layers)
    assert layers == {name for name, _ in linear_layers(tiny.model) if not name.endswith("down_proj")}
