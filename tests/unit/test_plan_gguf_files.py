"""Planning from a GGUF file: its shape, its bytes, and files that say something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from quantlab.backends.llama_cpp import quantize_gguf
from quantlab.checkpoints.gguf import write_gguf
from quantlab.errors import QuantlabError, UsageError
from quantlab.formats.gguf_head import read_head
from quantlab.plan.gguf_files import FILE_TYPES, Stored, shape_from_gguf, stored_as
from quantlab.plan.memory import weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.report import plan


@pytest.fixture(scope="module")
def file(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    return quantize_gguf(write_gguf(tiny_folder, folder / "full.gguf", dtype="f16"), folder / "small.gguf", "q4_k_m")


@pytest.fixture(scope="module")
def metadata(file: Path) -> dict[str, Any]:
    return read_head(file).metadata


def test_file_types_are_llama_cpps() -> None:
    names = {"f32": "LLAMA_FTYPE_ALL_F32"}
    for number, name in FILE_TYPES.items():
        assert getattr(llama_cpp, names.get(name, f"LLAMA_FTYPE_MOSTLY_{name.upper()}")) == number


def test_the_shape_is_that_of_the_models_config(file: Path, metadata: dict[str, Any]) -> None:
    found = shape_from_gguf(metadata, read_head(file).tensors.keys(), "small.gguf")
    assert replace(found, name="tiny", source="") == replace(shape_of("tiny"), name="tiny", source="")


def test_the_weights_are_the_files_to_the_byte(run_cli: Any, file: Path) -> None:
    done = run_cli("plan", file, "--gpu", "t4", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    head = read_head(file)
    padding = max(tensor.offset + tensor.nbytes for tensor in head.tensors.values())
    assert found["weights_bytes"] == sum(tensor.nbytes for tensor in head.tensors.values())
    assert 0 <= file.stat().st_size - head.data_start - padding < 32  # tensors follow each other without gaps
    assert found["weights_bytes"] == pytest.approx(weights_bytes("tiny", "q4_k_m"), rel=0.005)
    assert found["format"] == "q4_k_m"


def test_in_another_format_the_planner_counts(file: Path, metadata: dict[str, Any]) -> None:
    shape = shape_from_gguf(metadata, read_head(file).tensors.keys(), "small.gguf")
    stored = Stored("q4_k_m", 123)
    assert plan(shape, "t4", "q4_k_m", stored=stored).weights_bytes == 123
    assert plan(shape, "t4", "q8_0", stored=stored).weights_bytes == weights_bytes(shape, "q8_0")
    assert any("the file's tensors, 123 bytes" in note for note in plan(shape, "t4", "q4_k_m", stored=stored).notes())
    assert not any("tensors" in note for note in plan(shape, "t4", "q8_0", stored=stored).notes())


def test_a_head_of_its_own_is_not_tied(metadata: dict[str, Any]) -> None:
    assert shape_from_gguf(metadata, ["token_embd.weight"], "x").tied
    assert not shape_from_gguf(metadata, ["token_embd.weight", "output.weight"], "x").tied


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"general.architecture": "qwen"}, "qwen.*qwen2"),
        ({"general.architecture": None}, "architecture"),
        ({"llama.block_count": None}, r"lacks llama\.block_count; convert the model again"),
        ({"split.count": 3}, "one of 3 parts of a model; plan the model by its name"),
        ({"llama.block_count": -1}, "num_hidden_layers"),
        ({"llama.attention.head_count": 0}, "num_attention_heads"),
    ],
)
def test_metadata_that_describe_no_model(metadata: dict[str, Any], changed: dict[str, Any], words: str) -> None:
    with pytest.raises((QuantlabError, UsageError), match=words):
        shape_from_gguf(metadata | changed, [], "x.gguf")


@pytest.mark.parametrize("number", [None, 4, 999, "q4_0"])
def test_an_unknown_file_type(number: object) -> None:
    with pytest.raises(QuantlabError, match=r"is of file type .* which is not known here; known are f32, f16, q4_0"):
        stored_as({"general.file_type": number}, 1, "x.gguf")


def test_files_that_are_none(run_cli: Any, tmp_path: Path) -> None:
    run_cli("plan", tmp_path / "absent.gguf").must_say(1, "cannot read", "absent.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\x03\0\0\0" + b"\xff" * 16)
    run_cli("plan", tmp_path / "bad.gguf").must_say(1, "bad.gguf", "is not a usable GGUF file")
