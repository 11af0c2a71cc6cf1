"""What is read of a GGUF file before a server is started with it; test_gguf_file.py has more broken files."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from quantlab.errors import QuantlabError, UsageError
from quantlab.serve.artifacts import format_name, gguf_for


def _written(path: Path, architecture: str = "llama", template: str | None = None) -> Path:
    """A small file by the reference writer."""
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(512)
    if template is not None:
        writer.add_chat_template(template)
    writer.add_token_list(["a", "ö", ""])
    writer.add_tensor("t", np.zeros((2, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("architecture", "template"), [("llama", "{{ messages }}"), ("qwen3", None)])
def test_what_a_server_must_know(architecture: str, template: str | None, tmp_path: Path) -> None:
    artifact = gguf_for(str(_written(tmp_path / "small.gguf", architecture, template)))
    assert (artifact.model, artifact.window, artifact.chat) == ("small", 512, template is not None)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "claims 4 bytes more"),
        (b"PK\x03\x04" + bytes(100), "it does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "its version is 1"),
        # 43 bytes that claim 2^62 entries of metadata: readers that believe them hang
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62) + bytes(19), "claims 4,611,686,018,427,387,904 entries more"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**62), "entries more, where 0 bytes are left"),
    ],
)
def test_lies_are_refused_at_once(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    started = time.process_time()
    with pytest.raises(QuantlabError, match=said) as caught:
        gguf_for(str(path))
    assert time.process_time() - started < 1
    assert str(path) in str(caught.value)


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
