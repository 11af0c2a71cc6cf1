"""GGUF files that are whole, and ones that overrun, contradict themselves, or hold noise."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from verify_cases import must_find, one_block

from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.verify import verify
from quantlab.checkpoints.verify.gguf_values import SCALES
from quantlab.formats.catalog import quantize_tensor
from quantlab.formats.gguf_file import FORMATS, open_gguf, save_gguf
from quantlab.formats.gguf_head import TYPES
from quantlab.formats.gguf_values import Kind, Value
from quantlab.models.smollm2 import gguf_file

DOWN = "blk.0.ffn_down.weight"
KINDS = ("bf16", "q4_0", "q4_1", "q5_0", "q8_0", "iq4_nl", "q2_k", "q3_k", "q4_k", "q6_k")


class Files:
    """One block of the bundled model in a type, made when first asked for."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.folder, self.block = folder, one_block(model, folder / "block")

    def __call__(self, kind: str) -> Path:
        out = self.folder / f"{kind}.gguf"
        if not out.exists():
            weights = load_file(self.block / "model.safetensors")
            matrices = {n.removesuffix(".weight"): W for n, W in weights.items() if W.ndim == 2 and "layers." in n}
            blocks = {} if kind == "bf16" else {n: quantize_tensor(W.float(), kind) for n, W in matrices.items()}
            write_gguf(self.block, out, quantized=blocks)
        return out


@pytest.fixture(scope="module")
def files(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tiny_folder, tmp_path_factory.mktemp("gguf"))


def _changed(path: Path, out: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """The file written anew with other metadata or other tensors."""
    file = open_gguf(path)
    values, tensors = dict(file.values), {name: file.tensor(name) for name in file.tensors}
    change(values, tensors)
    return save_gguf(out / "changed.gguf", values, tensors)


def _bytes_of(path: Path, out: Path, name: str, change: Callable[[np.ndarray], None]) -> Path:
    """A copy with other bytes in one tensor."""
    file = open_gguf(path)
    raw = bytearray(path.read_bytes())
    info = file.tensors[name]
    start = file.data_start + info.offset
    blocks = np.frombuffer(raw, dtype=np.uint8, count=info.nbytes, offset=start)
    change(blocks.reshape(-1, TYPES[info.type].nbytes))
    (out / "bytes.gguf").write_bytes(raw)
    return out / "bytes.gguf"


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_is_all_well(files: Files, kind: str) -> None:
    found = verify(files(kind))
    assert found.ok, found.to_json()
    answers = {check.name: check.passed for check in found.checks}
    assert all(answers[name] is True for name in ("shapes", "tokenizer", "template", "values"))
    if kind in ("q4_0", "q4_1", "q5_0", "q8_0", "iq4_nl"):
        assert answers["order"] is True


def test_a_folder_with_one_file(files: Files, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(files("q4_0").read_bytes())
    assert verify(tmp_path, quick=True).kind == "gguf"


def test_llama_cpps_own_file_is_all_well() -> None:
    """SmolLM2, quantized by llama.cpp to Q4_1: the order of its nibbles shows, too."""
    found = verify(gguf_file())
    assert found.ok, found.to_json()
    assert {check.name: check.passed for check in found.checks}["order"] is True


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "iq4_nl"])
def test_swapped_nibbles(files: Files, tmp_path: Path, kind: str) -> None:
    """The low nibble is the first half of a block: exchanged, weights 0-15 and 16-31 change places."""
    first = SCALES[kind][-1][0] + 2

    def swap(blocks: np.ndarray) -> None:
        blocks[:, first:] = (blocks[:, first:] >> 4) | (blocks[:, first:] << 4)

    path = files(kind)
    for name in [name for name in open_gguf(path).tensors if open_gguf(path).tensors[name].type == kind]:
        path = _bytes_of(path, tmp_path, name, swap)
    must_find(path, "order", "'halves of 32'", "nibbles are swapped")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bf16"])
def test_a_scale_that_is_not_finite(files: Files, tmp_path: Path, kind: str, value: float) -> None:
    def put(blocks: np.ndarray) -> None:
        at = SCALES[kind][-1][0]
        blocks[77, at : at + 2] = np.frombuffer(struct.pack("<e", value), dtype=np.uint8)

    must_find(_bytes_of(files(kind), tmp_path, DOWN, put), "scales", DOWN, "scale")


def test_every_block_format_has_its_scales_described() -> None:
    assert FORMATS.keys() <= SCALES.keys()
    for kind, fields in SCALES.items():
        assert max(at for at, _ in fields) < TYPES[kind].nbytes


@pytest.mark.parametrize("fill", [0, 0x3C])
def test_a_tensor_that_was_not_filled(files: Files, tmp_path: Path, fill: int) -> None:
    def put(blocks: np.ndarray) -> None:
        blocks[:] = fill

    must_find(_bytes_of(files("q4_0"), tmp_path, DOWN, put), "codes", DOWN)


def test_a_number_that_is_none(files: Files, tmp_path: Path) -> None:
    def put(numbers: np.ndarray) -> None:
        numbers[5] = (0, 0, 0xC0, 0x7F)

    must_find(_bytes_of(files("q4_0"), tmp_path, "output_norm.weight", put), "values", "output_norm.weight", "NaN")


_HUGE = 2**63 - 1


def _head(tensors: int = 0, pairs: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)


def _key(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


OVERRUNS = {
    "43 bytes that claim 2^63 pairs": _head(pairs=_HUGE) + bytes(19),
    "43 bytes that claim 2^63 tensors": _head(tensors=_HUGE) + bytes(19),
    "a text as long as the sea": _head(pairs=1) + struct.pack("<Q", _HUGE) + bytes(64),
    "a value as long as the sea": _head(pairs=1) + _key(b"k", 8, struct.pack("<Q", 2**40)) + bytes(64),
    "an array of arrays of arrays": _head(pairs=1) + _key(b"k", 9, struct.pack("<IQ", 9, 1) * 5000),
    "an alignment of 0": _head(1, 1) + _key(b"general.alignment", 4, struct.pack("<I", 0)) + bytes(64),
    "an alignment of 7": _head(1, 1) + _key(b"general.alignment", 4, struct.pack("<I", 7)) + bytes(64),
    "a tensor beyond the end": _head(1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 2**40, 0, 0) + bytes(64),
    "a tensor at the end of the world": _head(1) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 8, 0, 2**62) + bytes(64),
    "another version": b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
    "no GGUF": b"GGML" + bytes(64),
    "nothing": b"",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("name", OVERRUNS)
def test_a_file_that_overruns(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(OVERRUNS[name])
    start = time.perf_counter()
    found = verify(path)
    assert time.perf_counter() - start < 1
    assert not found.ok
    assert str(path) in str(found.fault)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file(files: Files, tmp_path: Path, share: float) -> None:
    raw = files("q4_0").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(raw[: int(share * len(raw))])
    must_find(tmp_path / "cut.gguf", "headers", "cut.gguf", "again", quick=True)


@pytest.mark.parametrize(("number", "how"), [(3, "gap|overlaps"), (2, "")])
def test_a_tensor_of_another_type(files: Files, tmp_path: Path, number: int, how: str) -> None:
    """GGUF's group size is its type: Q4_1 for Q4_0 moves the end of the tensor."""
    path = files("q4_0")
    raw = bytearray(path.read_bytes())
    info = open_gguf(path).tensors["blk.0.attn_q.weight"]
    at = raw.index(info.to_bytes()) + len(info.to_bytes()) - 12
    raw[at : at + 4] = struct.pack("<I", number)
    (tmp_path / "type.gguf").write_bytes(raw)
    found = verify(tmp_path / "type.gguf", quick=True)
    assert found.ok == (not how)
    assert not how or any(word in str(found.fault) for word in how.split("|"))


@pytest.mark.parametrize(
    ("key", "value", "family", "words"),
    [
        ("llama.block_count", Value(Kind.UINT32, 2), "shapes", "blk.1"),
        ("llama.block_count", Value(Kind.UINT32, 10**9), "shapes", "1,000,000,000 blocks"),
        ("llama.embedding_length", Value(Kind.UINT32, 256), "shapes", "metadata imply"),
        ("llama.feed_forward_length", Value(Kind.UINT32, 0), "config", "no size"),
        ("llama.attention.head_count", Value(Kind.STRING, "8"), "config", "no size"),
        ("llama.rope.freq_base", Value(Kind.FLOAT32, float("nan")), "config", "positive"),
        ("general.architecture", Value(Kind.UINT32, 1), "config", "general.architecture"),
        ("tokenizer.ggml.eos_token_id", Value(Kind.UINT32, 5000), "tokenizer", "eos_token_id 5000"),
        ("tokenizer.ggml.tokens", Value(Kind.ARRAY, ["a", "b"], Kind.STRING), "tokenizer", "4,096 rows"),
        ("tokenizer.ggml.tokens", Value(Kind.UINT32, 7), "tokenizer", "no tokenizer"),
        ("tokenizer.ggml.token_type", Value(Kind.ARRAY, [1, 2], Kind.INT32), "tokenizer", "token_type"),
        ("tokenizer.chat_template", Value(Kind.STRING, "{% if"), "template", "cannot be read"),
    ],
)
def test_metadata_that_contradict_the_rest(
    files: Files, tmp_path: Path, key: str, value: Value, family: str, words: str
) -> None:
    path = _changed(files("q4_0"), tmp_path, lambda values, _: values.update({key: value}))
    must_find(path, family, words, quick=True)


def test_a_vocabulary_larger_than_the_embedding(files: Files, tmp_path: Path) -> None:
    def grow(values: dict[str, Any], _: dict[str, Any]) -> None:
        for key, more in (("tokens", "new"), ("token_type", 1)):
            old = values[f"tokenizer.ggml.{key}"]
            values[f"tokenizer.ggml.{key}"] = Value(old.kind, [*old.value, more], old.items)

    must_find(_changed(files("q4_0"), tmp_path, grow), "tokenizer", '"new"', "4,096 rows", quick=True)


def test_a_missing_tensor_and_one_too_many(files: Files, tmp_path: Path) -> None:
    def rename(_: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["blk.0.ffn_side.weight"] = tensors.pop(DOWN)

    found = must_find(_changed(files("q4_0"), tmp_path, rename), "shapes", DOWN, "missing", quick=True)
    assert any("blk.0.ffn_side.weight has no place" in fault for fault in found.faults)


def test_another_architecture_is_no_fault(files: Files, tmp_path: Path) -> None:
    path = _changed(
        files("q4_0"), tmp_path, lambda values, _: values.update({"general.architecture": Value(Kind.STRING, "mamba")})
    )
    found = verify(path, quick=True)
    assert found.ok
    assert any(check.passed is None and "mamba" in check.what for check in found.checks)


def test_random_weights_betray_nothing(files: Files, tmp_path: Path) -> None:
    def random(_: dict[str, Any], tensors: dict[str, Any]) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, tensor in tensors.items():
            if name.startswith("blk.0.") and len(tensor.shape) == 2:
                tensors[name] = quantize_tensor(torch.randn(*tensor.shape, generator=generator), "q4_0")

    found = verify(_changed(files("q4_0"), tmp_path, random))
    assert {check.name: check.passed for check in found.checks}["order"] is None
