"""The GGUF file: the bytes of the gguf package's writer, what was written read back, and files that lie."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from ggml_oracle import library_of
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError
from quantlab.formats.catalog import quantize_tensor
from quantlab.formats.gguf_file import FORMATS, Later, open_gguf, save_gguf
from quantlab.formats.gguf_head import TYPES, read_head
from quantlab.formats.gguf_values import DEPTH, Kind, Value, typed

METADATA = {
    "general.architecture": Value(Kind.STRING, "llama"),
    **{f"number.{kind.name}": Value(kind, 7) for kind in Kind if kind not in (Kind.STRING, Kind.ARRAY, Kind.BOOL)},
    "yes": typed(True),
    "pi": typed(3.5),
    "tokens": typed(["a", "é", ""]),
    "scores": typed([1.5, -2.5]),
    "flags": typed([True, False]),
    "types": Value(Kind.ARRAY, [1, 2, 3], Kind.INT8),
    "nested": typed([[1, 2], [3]]),
}


def _tensors() -> dict[str, Tensor | QuantizedTensor]:
    W = torch.randn(6, 256, generator=torch.Generator().manual_seed(1))
    quantized = {name: quantize_tensor(W, name) for name in FORMATS}
    plain = {"norm": W[0], "half": W[:3].half(), "cube": W.reshape(2, 3, 256), "bf16": W.bfloat16(), "ids": W[:1].int()}
    return {**plain, **quantized}


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.view(torch.uint8).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _theirs(path: Path, alignment: int | None = None) -> bytes:
    """The same content through the gguf package's writer."""
    writer = GGUFWriter(path, "llama")
    for key, value in list(METADATA.items())[1:]:
        items = None if value.items is None else GGUFValueType(value.items)
        writer.add_key_value(key, value.plain, GGUFValueType(value.kind), sub_type=items)
    if alignment:
        writer.add_custom_alignment(alignment)
    for name, tensor in _tensors().items():
        if isinstance(tensor, QuantizedTensor):
            raw = tensor.parts["blocks"].numpy()
            writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType[name.upper()])
        else:
            kind = GGMLQuantizationType.BF16 if tensor.dtype == torch.bfloat16 else None
            writer.add_tensor(name, _numpy(tensor), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.mark.parametrize("alignment", [None, 64])
def test_same_bytes_as_the_gguf_package(alignment: int | None, tmp_path: Path) -> None:
    extra = {"general.alignment": Value(Kind.UINT32, alignment)} if alignment else {}
    ours = save_gguf(tmp_path / "ours.gguf", {**METADATA, **extra}, _tensors())
    assert ours.read_bytes() == _theirs(tmp_path / "theirs.gguf", alignment)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    file = open_gguf(save_gguf(tmp_path / "all.gguf", METADATA, _tensors()))
    assert file.values == METADATA
    assert file.metadata["nested"] == [[1, 2], [3]]
    for name, tensor in _tensors().items():
        found = file.tensor(name)
        if isinstance(tensor, QuantizedTensor):
            assert isinstance(found, QuantizedTensor)
            assert found.to_bytes() == tensor.to_bytes()
            assert torch.equal(found.dequantize(), tensor.dequantize())
        else:
            assert isinstance(found, Tensor)
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)


def test_the_gguf_package_reads_it(tmp_path: Path) -> None:
    reader = GGUFReader(save_gguf(tmp_path / "all.gguf", {"general.architecture": "llama"}, _tensors()))
    assert [tensor.name for tensor in reader.tensors] == list(_tensors())
    assert reader.fields["general.architecture"].contents() == "llama"


def test_sizes_of_types_are_those_of_the_c_library(llama_cpp: ModuleType) -> None:
    library = ctypes.CDLL(str(library_of(llama_cpp)))
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    for name, entry in TYPES.items():
        number = entry.number
        assert library.ggml_type_name(number).decode().lower() == name
        assert (entry.block, entry.nbytes) == (library.ggml_blck_size(number), library.ggml_type_size(number))


def test_a_tensor_is_made_when_its_turn_comes(tmp_path: Path) -> None:
    W, made = torch.randn(4, 256), []

    def later(name: str) -> Later:
        return Later(name, (4, 256), lambda: made.append(name) or quantize_tensor(W, name))

    path = save_gguf(tmp_path / "later.gguf", {}, {"a": later("q4_k"), "b": later("q6_k"), "c": W})
    assert made == ["q4_k", "q6_k"]
    assert (
        path.read_bytes()
        == save_gguf(
            tmp_path / "now.gguf", {}, {"a": quantize_tensor(W, "q4_k"), "b": quantize_tensor(W, "q6_k"), "c": W}
        ).read_bytes()
    )
    with pytest.raises(AssertionError, match="promised"):
        save_gguf(tmp_path / "lie.gguf", {}, {"a": Later("q8_0", (4, 256), lambda: quantize_tensor(W, "q4_k"))})
    assert not (tmp_path / "lie.gguf").exists()


def test_the_head_alone_needs_no_torch(tmp_path: Path) -> None:
    path = save_gguf(tmp_path / "all.gguf", METADATA, _tensors())
    head, file = read_head(path), open_gguf(path)
    assert (head.values, head.tensors, head.data_start) == (file.values, file.tensors, file.data_start)
    code = "import sys; import quantlab.formats.gguf_head; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_type_that_cannot_be_dequantized_is_named(tmp_path: Path) -> None:
    raw = save_gguf(tmp_path / "q.gguf", {}, {"w": quantize_tensor(torch.randn(2, 256), "q3_k")}).read_bytes()
    at = raw.index(struct.pack("<I", TYPES["q3_k"].number), 33)
    path = tmp_path / "iq3.gguf"
    path.write_bytes(raw[:at] + struct.pack("<I", TYPES["iq3_s"].number) + raw[at + 4 :])
    file = open_gguf(path)
    assert len(file.raw("w")) == 220
    with pytest.raises(QuantlabError, match="w is stored as iq3_s, which cannot be dequantized here"):
        file.tensor("w")
    with pytest.raises(QuantlabError, match="unknown tensor 'v'"):
        file.raw("v")


def _head(version: int = 3, tensors: int = 0, pairs: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


_KEY = struct.pack("<Q", 1) + b"k"
_HUGE = 2**63 - 1
_INFO = struct.pack("<Q", 1) + b"w" + struct.pack("<I", 1)
CRAFTED = {
    "43 bytes that claim 2^63 pairs": (_head(pairs=_HUGE) + bytes(19), "claims 9,223,372,036,854,775,807 entries"),
    "43 bytes that claim 2^63 tensors": (_head(tensors=_HUGE) + bytes(19), "claims 9,223,372,036,854,775,807 entries"),
    "an array without end": (_head(pairs=1) + _KEY + struct.pack("<IIQ", 9, 0, _HUGE), "entries more"),
    "texts without end": (_head(pairs=1) + _KEY + struct.pack("<IIQ", 9, 8, _HUGE), "entries more"),
    "arrays without end": (_head(pairs=1) + _KEY + struct.pack("<IIQ", 9, 9, _HUGE), "entries more"),
    "a text without end": (_head(pairs=1) + _KEY + struct.pack("<IQ", 8, _HUGE) + bytes(8), "bytes more"),
    "a key without end": (_head(pairs=1) + struct.pack("<Q", _HUGE) + bytes(8), "bytes more"),
    "arrays nested for ever": (
        _head(pairs=1) + _KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 99,
        "nest more",
    ),
    "an unknown type": (_head(pairs=1) + _KEY + struct.pack("<I", 13) + bytes(8), "unknown type 13"),
    "one key twice": (_head(pairs=2) + (_KEY + struct.pack("<IB", 0, 1)) * 2 + bytes(9), "the key 'k' twice"),
    "another file": (b"PK\3\4" + bytes(40), "does not begin with GGUF"),
    "nothing": (b"", "claims 4 bytes more"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "its version is 50331648"),
    "no dimensions": (_head(tensors=1) + _INFO[:-4] + bytes(32), "has 0 dimensions"),
    "an unknown tensor type": (
        _head(tensors=1) + _INFO + struct.pack("<QIQ", 32, 99, 0) + bytes(32),
        "unknown type 99",
    ),
    "half a block": (_head(tensors=1) + _INFO + struct.pack("<QIQ", 33, 2, 0) + bytes(99), "not made of blocks of 32"),
    "an offset out of line": (_head(tensors=1) + _INFO + struct.pack("<QIQ", 32, 2, 7) + bytes(99), "lies at 7"),
    "a tensor beyond the end": (
        _head(tensors=1) + _INFO + struct.pack("<QIQ", 2**40, 0, 0) + bytes(99),
        "beyond its end",
    ),
    "an alignment of zero": (
        _head(pairs=1) + struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 0),
        "alignment is 0",
    ),
}


@pytest.mark.parametrize("crafted", CRAFTED)
def test_a_crafted_file_ends_in_one_sentence_at_once(crafted: str, tmp_path: Path) -> None:
    raw, words = CRAFTED[crafted]
    path = tmp_path / "crafted.gguf"
    path.write_bytes(raw)
    started = time.process_time()
    with pytest.raises(QuantlabError, match=words) as caught:
        open_gguf(path)
    assert time.process_time() - started < 1
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(QuantlabError, match="No such file"):
        open_gguf(tmp_path / "absent.gguf")
    with pytest.raises(QuantlabError, match="is no file"):
        open_gguf(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(QuantlabError, match="is no file"):
        open_gguf(tmp_path / "pipe")


def _small(tmp_path: Path) -> bytes:
    tensors = {"norm": torch.ones(8), "w": quantize_tensor(torch.ones(1, 32), "q4_0")}
    return save_gguf(tmp_path / "small.gguf", {"a": [1, 2], "b": ["x", "y"], "c": [[True]]}, tensors).read_bytes()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = _small(tmp_path)
    end = whole.rindex(bytes(quantize_tensor(torch.ones(1, 32), "q4_0").to_bytes())) + 18  # then comes padding
    path = tmp_path / "cut.gguf"
    for length in range(end):
        path.write_bytes(whole[:length])
        with pytest.raises(QuantlabError, match="not a usable GGUF file"):
            open_gguf(path)
    path.write_bytes(whole[:end])
    assert open_gguf(path).tensors.keys() == {"norm", "w"}


@given(st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=150, deadline=2000)
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    raw = bytearray(_small(folder))
    for place, octet in changes:
        raw[place % len(raw)] = octet
    path = folder / "damaged.gguf"
    path.write_bytes(raw)
    try:
        file = open_gguf(path)
        for name in file.tensors:
            file.tensor(name)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017


_scalars = st.integers(-(2**31), 2**31 - 1) | st.booleans() | st.text(st.characters(codec="utf-8"), max_size=9)
_lists = (
    st.lists(st.integers(-9, 9), min_size=1, max_size=5)
    | st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=4)
    | st.lists(st.lists(st.booleans(), min_size=1, max_size=3), min_size=1, max_size=3)
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=12), _scalars | _lists, max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_metadata_comes_back(tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, object]) -> None:
    metadata.pop("general.alignment", None)
    path = save_gguf(tmp_path_factory.mktemp("metadata") / "m.gguf", metadata, {})
    assert open_gguf(path).metadata == metadata


def test_bytes_that_are_no_utf8_come_back(tmp_path: Path) -> None:
    path = tmp_path / "raw.gguf"
    path.write_bytes(_head(pairs=1) + _KEY + struct.pack("<IQ", 8, 2) + b"\xff\xc3")
    again = save_gguf(tmp_path / "again.gguf", open_gguf(path).values, {})
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("metadata", "tensors", "words"),
    [
        ({"k": Value(Kind.UINT8, 256)}, {}, "does not fit GGUF's uint8"),
        ({"k": 2**40}, {}, "does not fit GGUF's int32"),
        ({"k": []}, {}, "cannot hold"),
        ({"k": [1, "a"]}, {}, "must share one type"),
        ({"k": None}, {}, "cannot hold None"),
        ({"general.alignment": 33}, {}, "alignment is 33"),
        ({}, {"w" * 64: torch.ones(1)}, "longer than 63 bytes"),
        ({}, {"w": torch.ones(1, dtype=torch.complex64)}, "complex64"),
        ({}, {"w": torch.ones(())}, r"of shape \[\]"),
        ({}, {"w": quantize_tensor(torch.ones(1, 64), "nf4")}, "stored as nf4, which is no GGUF type"),
    ],
)
def test_what_gguf_cannot_hold(metadata: dict, tensors: dict, words: str, tmp_path: Path) -> None:
    path = tmp_path / "never.gguf"
    with pytest.raises(ValueError, match=words):
        save_gguf(path, metadata, tensors)
    assert not list(tmp_path.iterdir())


def test_too_deep_to_write(tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(DEPTH + 2):
        deep = [deep]
    with pytest.raises(ValueError, match=f"nest {DEPTH} deep"):
        save_gguf(tmp_path / "deep.gguf", {"k": deep}, {})


def test_smollm2_opens_without_reading_it() -> None:
    from quantlab.models.smollm2 import gguf_file

    file = open_gguf(gguf_file())
    assert file.metadata["general.architecture"] == "llama"
    assert "tokenizer.ggml.tokens" in file.values
    reader = GGUFReader(gguf_file())
    assert {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors} == {
        name: info.type for name, info in file.tensors.items()
    }
    one = next(tensor for tensor in reader.tensors if tensor.tensor_type.name == "Q4_1")
    assert bytes(file.raw(one.name).numpy()) == one.data.tobytes()
