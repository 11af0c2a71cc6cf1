"""What is read of a GGUF file before a server is started with it: every cut and every lie ends in one sentence."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import given
from hypothesis import strategies as st

from quantlab.errors import QuantlabError, UsageError
from quantlab.serve.artifacts import format_name, gguf_for
from quantlab.serve.gguf_header import read_gguf_header


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file by the reference writer, with every kind of value."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list(["a", "ö", ""])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -5)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -6)
    writer.add_int32("test.i32", -7)
    writer.add_uint64("test.u64", 2**60)
    writer.add_int64("test.i64", -(2**60))
    writer.add_float32("test.f32", 0.5)
    writer.add_float64("test.f64", 0.25)
    writer.add_bool("test.bool", True)
    writer.add_string("test.text", "größer")
    writer.add_tensor("t", np.zeros((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def end_of_header(data: bytes) -> int:
    """Where the first tensor's name begins: it is the only one, and is called t."""
    return data.index(struct.pack("<Q", 1) + b"t" + struct.pack("<I", 2))


def test_it_reads_what_the_reference_writer_wrote(gguf_file):
    header = read_gguf_header(gguf_file)
    assert (header.window, header.has_chat_template) == (512, True)
    found = {key.removeprefix("test."): value for key, value in header.metadata.items() if key.startswith("test.")}
    assert found == {
        **{"u8": 200, "i8": -5, "u16": 60000, "i16": -6, "i32": -7, "u64": 2**60, "i64": -(2**60)},
        **{"f32": 0.5, "f64": 0.25, "bool": True, "text": "größer"},
    }


def test_every_cut_of_the_header_is_noticed(gguf_file, tmp_path):
    data = gguf_file.read_bytes()
    for length in range(end_of_header(data)):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(QuantlabError, match=r"is not a usable GGUF file: .* download or convert it again"):
            read_gguf_header(tmp_path / "cut.gguf")


@given(where=st.integers(0, 700), byte=st.integers(0, 255))
def test_no_changed_byte_hangs_or_crashes_it(gguf_file, where, byte):
    data = bytearray(gguf_file.read_bytes())
    data[where % end_of_header(data)] = byte
    path = gguf_file.with_name("changed.gguf")
    path.write_bytes(data)
    try:
        read_gguf_header(path)
    except QuantlabError as error:
        assert "is not a usable GGUF file" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it ends too early"),
        (b"PK\x03\x04" + bytes(100), "it does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "its version is 50331648"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62), "it claims 4,611,686,018,427,387,904 metadata entries"),
        # one array that claims 2^62 texts, of arrays, of an unknown type
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**62), "it ends too early"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 2**62), "elements of the unknown type 9"),
        (b"GGUF" + struct.pack("<IQQQ1sII", 3, 0, 1, 1, b"k", 99, 0), "a value has the unknown type 99"),
    ],
)
def test_lies(tmp_path, data, said):
    (tmp_path / "bad.gguf").write_bytes(data)
    with pytest.raises(QuantlabError, match=said):
        gguf_for(str(tmp_path / "bad.gguf"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(QuantlabError, match=r"cannot read .*none\.gguf: No such file or directory; check the path"):
        gguf_for(str(tmp_path / "none.gguf"))


def test_a_file_without_window_or_template(tmp_path):
    path = tmp_path / "bare.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    artifact = gguf_for(str(path))
    assert (artifact.model, artifact.window, artifact.chat) == ("bare", None, False)


def test_a_format_is_for_models_that_are_converted(tmp_path):
    with pytest.raises(UsageError, match="has its format already; leave out --format"):
        gguf_for(str(tmp_path / "x.gguf"), "q8_0")


@pytest.mark.parametrize(("given", "name"), [("Q4_K_M", "q4_k_m"), ("FP16", "f16"), ("bfloat16", "bf16")])
def test_spellings(given, name):
    assert format_name(given) == name
