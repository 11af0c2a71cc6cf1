"""quantlab behind the interface of the libraries: every kind of checkpoint, folded norms and all; going on again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_cases import different
from made_checkpoints import EVERYTHING, LITTLE, Workshop

from quantlab.backends.quantizers.making import quantize
from quantlab.backends.quantizers.offers import Wish
from quantlab.checkpoints.manifest import check_manifest
from quantlab.checkpoints.read import dequantized, outline
from quantlab.formats.gguf_head import read_head

ALWAYS = [
    ("awq", None, "awq", "awq_int4_g128"),
    ("smoothquant", "int8", "compressed-tensors", "int8"),
    ("hqq", "gptq", "gptq", "gptq_int4_g128"),
]
MORE = [
    ("awq", "int", "compressed-tensors", "int4_g128"),
    ("gptq", None, "gptq", "gptq_int4_g128"),
    ("rtn", "nvfp4", "compressed-tensors", "nvfp4"),
    ("rtn", "fp8", "compressed-tensors", "fp8_e4m3_channel"),
    ("rtn", "nf4", "bitsandbytes", "nf4"),
]


@pytest.mark.parametrize(("method", "fmt", "kind", "name"), ALWAYS + (MORE if EVERYTHING else []))
def test_a_checkpoint_computes_what_was_quantized(
    workshop: Workshop, tiny, method: str, fmt: str | None, kind: str, name: str
) -> None:
    made = workshop.make("quantlab", method, fmt)
    found = outline(made.path)
    assert found.kind.name == kind
    assert {layer.fmt.name for layer in found.layers.values()} == {name}
    assert check_manifest(made.path)["method"] == method

    ids = torch.tensor([tiny.tokenizer("Once upon a time there was a little girl")["input_ids"]])
    with torch.no_grad():
        before = tiny.model(ids).logits.log_softmax(-1)
        parameters = {key: value.float() for key, value in dequantized(made.path).items()}
        after = torch.func.functional_call(tiny.model, parameters, (ids,)).logits.log_softmax(-1)
    divergence = (before.exp() * (before - after)).sum(-1).mean()
    assert 0 < divergence < 0.3  # a scale that was folded on one side only gives several nats


SAME = [("llm-compressor", "nvfp4")]  # round to nearest: library, format
MORE_SAME = [
    *(("llm-compressor", fmt) for fmt in ("int", "int8", "fp8", "fp8_e4m3_block128", "mxfp4")),
    *(("bitsandbytes", fmt) for fmt in ("nf4", "nf4_dq", "fp4", "fp4_dq", "llm_int8")),
]


@pytest.mark.parametrize(("library", "fmt"), SAME + (MORE_SAME if EVERYTHING else []))
def test_rounding_to_nearest_gives_the_librarys_own_file(workshop: Workshop, library: str, fmt: str) -> None:
    """Each starts from the published weights, in a process of its own: every tensor is equal, byte for byte."""
    ours, theirs = (workshop.make(who, "rtn", fmt) for who in ("quantlab", library))
    assert different(ours.path, theirs.path) == []


def test_a_gguf_file(workshop: Workshop) -> None:
    """By quantlab's quantizers and by llama.cpp's: the same file, importance and all."""
    ours, theirs = (workshop.make(library, "imatrix", "q4_k_m") for library in ("quantlab", "llama.cpp"))
    assert {"q4_k", "q6_k"} <= {info.type for info in read_head(ours.path).tensors.values()}
    assert ours.path.read_bytes() == theirs.path.read_bytes()


def test_an_interrupted_quantization_goes_on(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(what: str, share: float | None) -> None:
        if "layers.1" in what:
            raise StopError

    out = tmp_path / "made"
    with pytest.raises(StopError):
        quantize("tiny", Wish(method="gptq"), out, calibration=LITTLE, resume=True, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["made.resume"]
    block = tmp_path / "made.resume" / "block-0000.safetensors"
    written = block.stat().st_mtime_ns

    seen: list[int] = []

    def look(what: str, share: float | None) -> None:
        seen.extend([block.stat().st_mtime_ns] if block.exists() else [])

    quantize("tiny", Wish(method="gptq"), out, calibration=LITTLE, resume=True, progress=look)
    assert set(seen) == {written}  # block 0 was taken as it was
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
