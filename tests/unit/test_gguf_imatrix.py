"""Importance matrices: written, read back, and files that lie."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantlab.checkpoints.gguf_imatrix import ImportanceMatrix, imatrix_of, read_imatrix, write_imatrix
from quantlab.core import LayerStats
from quantlab.errors import QuantlabError
from quantlab.formats.gguf_file import open_gguf, save_gguf
from quantlab.formats.gguf_values import Kind, Value

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "imatrix.json").read_text())["files"]


def _stats(k: int, n_tokens: int = 1000) -> LayerStats:
    X = torch.randn(n_tokens, k, generator=torch.Generator().manual_seed(k))
    return LayerStats(n_tokens, X.T @ X, X.abs().mean(0), X.abs().amax(0))


def _matrix() -> ImportanceMatrix:
    layers = {
        "model.layers.0.mlp.up_proj": 8,
        "model.layers.0.mlp.down_proj": 24,
        "model.layers.10.self_attn.q_proj": 8,
    }
    return imatrix_of({name: _stats(k) for name, k in layers.items()}, ("stories.txt", "größer.txt"))


def test_it_is_the_mean_square_of_each_input() -> None:
    stats = _stats(8)
    found = imatrix_of({"model.layers.3.self_attn.o_proj": stats})
    assert list(found.sums) == ["blk.3.attn_output.weight"]
    importance = found.importance("blk.3.attn_output.weight")
    assert importance is not None
    assert torch.equal(importance, stats.x_sqmean)
    assert found.importance("blk.4.attn_output.weight") is None
    assert found.chunks == 1


@pytest.mark.parametrize("name", ["imatrix.gguf", "imatrix.dat"])
def test_what_was_written_is_read_back(name: str, tmp_path: Path) -> None:
    ours = _matrix()
    found = read_imatrix(write_imatrix(tmp_path / name, ours))
    assert found.sums.keys() == ours.sums.keys()
    for weight in ours.sums:
        expected, got = ours.importance(weight), found.importance(weight)
        assert expected is not None
        assert got is not None
        if name.endswith(".gguf"):
            assert torch.equal(got, expected)
        else:  # two chunks: the mean is doubled and halved
            torch.testing.assert_close(got, expected, rtol=2**-23, atol=0)
    if name.endswith(".gguf"):
        assert (found.datasets, found.counts) == (ours.datasets, ours.counts)
    else:
        assert found.datasets == ours.datasets[-1:]
    assert found.chunk_size == 512


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_files_of_llama_imatrix_come_back_byte_for_byte(form: str, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"theirs.{name}" for name in GOLDEN}
    for name, path in paths.items():
        path.write_bytes(base64.b64decode(GOLDEN[name]))
    whole, found = read_imatrix(paths["gguf"]), read_imatrix(paths[form])
    assert (whole.chunk_size, whole.datasets, len(whole.sums)) == (32, ("text.txt",), 7)
    assert write_imatrix(tmp_path / f"ours.{form}", whole).read_bytes() == paths[form].read_bytes()
    for name in whole.sums:
        expected, got = whole.importance(name), found.importance(name)
        assert expected is not None
        assert got is not None
        torch.testing.assert_close(got, expected, rtol=2**-22, atol=0)


def test_a_weight_without_tokens_counts_as_one(tmp_path: Path) -> None:
    unseen = ImportanceMatrix(
        {"blk.0.ffn_up.weight": torch.zeros(4), "b": torch.ones(2)}, {"blk.0.ffn_up.weight": 0, "b": 2}
    )
    again = read_imatrix(write_imatrix(tmp_path / "a.gguf", unseen)).importance("blk.0.ffn_up.weight")
    assert again is not None
    assert torch.equal(again, torch.ones(4))
    assert list(read_imatrix(write_imatrix(tmp_path / "a.dat", unseen)).sums) == ["b"]


_SAID = {"general.type": "imatrix", "imatrix.chunk_size": Value(Kind.UINT32, 512)}
_ONE = torch.ones(1)
BROKEN: dict[str, tuple[dict[str, object], dict[str, Tensor], str]] = {
    "a model": ({"general.type": "model"}, {"w.in_sum2": _ONE, "w.counts": _ONE}, "but no importance matrix"),
    "nothing": (_SAID, {}, "but no importance matrix"),
    "no count": (_SAID, {"w.in_sum2": _ONE}, r"no w\.counts in float32"),
    "halves": (_SAID, {"w.in_sum2": _ONE.half(), "w.counts": _ONE}, r"no w\.in_sum2 in float32"),
    "experts": (_SAID, {"w.in_sum2": torch.ones(2, 4), "w.counts": torch.ones(2)}, "mixture of experts"),
    "negative": (_SAID, {"w.in_sum2": -_ONE, "w.counts": _ONE}, "negative or not finite"),
    "infinite": (_SAID, {"w.in_sum2": _ONE / 0, "w.counts": _ONE}, "negative or not finite"),
    "no number": (_SAID, {"w.in_sum2": _ONE, "w.counts": _ONE * torch.nan}, "counts nan tokens"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_file_that_is_none_is_refused(broken: str, tmp_path: Path) -> None:
    metadata, tensors, words = BROKEN[broken]
    path = save_gguf(tmp_path / "broken.gguf", metadata, tensors)
    with pytest.raises(QuantlabError, match=words) as caught:
        read_imatrix(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "claims 4 bytes more"),
        (struct.pack("<i", 2**31 - 1) + bytes(20), "entries more"),
        (struct.pack("<ii", 1, -1) + bytes(20), "counts -1"),
        (struct.pack("<ii", 1, 2**31 - 1) + bytes(20), "bytes more"),
        (struct.pack("<ii1sii", 1, 1, b"w", 1, 2**30) + bytes(20), "bytes more"),
        (struct.pack("<ii1siif", 1, 1, b"w", 1, 1, -1.0), "negative or not finite"),
        (struct.pack("<i", 0), "holds no importance"),
    ],
)
def test_an_old_file_that_lies_is_refused(raw: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "bad.dat").write_bytes(raw)
    with pytest.raises(QuantlabError, match=words) as caught:
        read_imatrix(tmp_path / "bad.dat")
    assert str(tmp_path / "bad.dat") in str(caught.value)


def test_an_old_file_cut_anywhere_is_refused_or_lacks_its_end(tmp_path: Path) -> None:
    whole = write_imatrix(
        tmp_path / "whole.dat", ImportanceMatrix({"w": torch.ones(3)}, {"w": 512}, ("text",))
    ).read_bytes()
    entries = len(whole) - 4 - 4 - len("text")
    for length in range(len(whole)):
        (tmp_path / "cut.dat").write_bytes(whole[:length])
        if length == entries or length == entries + 4:  # chunks and the text's name may be left out
            assert read_imatrix(tmp_path / "cut.dat").counts == {"w": 512}
        else:
            with pytest.raises(QuantlabError):
                read_imatrix(tmp_path / "cut.dat")


def test_an_importance_matrix_of_another_model(tmp_path: Path) -> None:
    file = open_gguf(save_gguf(tmp_path / "m.gguf", {}, {"blk.0.ffn_up.weight": torch.ones(4, 8)}))
    _matrix().check(file)
    with pytest.raises(QuantlabError, match="names no weight of"):
        imatrix_of({"model.layers.7.mlp.up_proj": _stats(8)}).check(file)
    with pytest.raises(QuantlabError, match=r"has 16 values for blk\.0\.ffn_up\.weight, but .* has rows of 8"):
        imatrix_of({"model.layers.0.mlp.up_proj": _stats(16)}).check(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(QuantlabError, match="No such file"):
        read_imatrix(tmp_path / "none.gguf")
    with pytest.raises(QuantlabError, match="cannot write"):
        write_imatrix(tmp_path / "absent" / "imatrix.dat", _matrix())
