"""Files, index and headers that are not what they seem."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from verify_cases import LAYER, Made, change, copy_of, must_find, renew

from quantlab.checkpoints.verify import verify
from quantlab.checkpoints.write import write_checkpoint
from quantlab.errors import QuantlabError
from quantlab.formats.catalog import quantize_tensor

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4831838208\n"


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tiny_folder, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def in_shards(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in several files."""
    weights = load_file(made.block / "model.safetensors")
    layer = quantize_tensor(weights[f"{LAYER}.weight"], "int4_g128", scale_dtype="bfloat16")
    out = tmp_path_factory.mktemp("shards") / "int4"
    return write_checkpoint(made.block, out, {LAYER: layer}, shard_bytes=2_500_000)


@pytest.fixture
def broken(made: Made, tmp_path: Path) -> Path:
    return made.copy("packed", tmp_path)


@pytest.fixture
def shards(in_shards: Path, tmp_path: Path) -> Path:
    return copy_of(in_shards, tmp_path / "shards")


def _shard_of(folder: Path, part: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][f"{LAYER}.{part}"]


def test_shards_are_all_well(in_shards: Path) -> None:
    found = verify(in_shards)
    assert found.ok, found.to_json()
    assert "index" in [check.name for check in found.checks if check.passed]


@pytest.mark.parametrize("missing", [1, 4096, 2_000_000])
def test_a_truncated_file(broken: Path, missing: int) -> None:
    weights = broken / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - missing)
    renew(broken)
    must_find(broken, "headers", "model.safetensors", f"{missing:,}", "missing", "copy it again", quick=True)


def test_a_file_cut_within_its_header(broken: Path) -> None:
    os.truncate(broken / "model.safetensors", 100)
    must_find(broken, "headers", "cut short", quick=True)


def test_a_missing_shard(shards: Path) -> None:
    gone = _shard_of(shards, "weight_packed")
    gone.unlink()
    must_find(shards, "files", gone.name, "missing", "download it again", quick=True)


def test_a_shard_with_a_tensor_missing(shards: Path) -> None:
    shard = _shard_of(shards, "weight_scale")
    tensors = load_file(shard)
    del tensors[f"{LAYER}.weight_scale"]
    save_file(tensors, shard, metadata={"format": "pt"})
    renew(shards)
    must_find(shards, "index", f"{LAYER}.weight_scale", shard.name, "no shard has it", quick=True)


def test_a_missing_tensor_without_an_index(broken: Path) -> None:
    change(broken, "model.norm.weight", lambda tensor: None, layer="")
    must_find(broken, "shapes", "model.norm.weight is missing", quick=True)


def test_a_tensor_in_two_shards(shards: Path) -> None:
    files = sorted(shards.glob("*.safetensors"))
    first, last = (load_file(path) for path in (files[0], files[-1]))
    name, tensor = next(iter(first.items()))
    save_file({**last, name: tensor}, files[-1], metadata={"format": "pt"})
    renew(shards)
    must_find(shards, "index", name, files[0].name, files[-1].name, quick=True)


def test_an_index_that_points_elsewhere(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = "../../secret.safetensors"
    (shards / INDEX).write_text(json.dumps(index))
    must_find(shards, "index", "not a safetensors file beside it", quick=True)


def test_a_tensor_that_the_index_does_not_list(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (shards / INDEX).write_text(json.dumps(index))
    renew(shards)
    found = verify(shards, quick=True)
    assert found.ok
    assert any(c.name == "index" and c.passed is None and "model.norm.weight" in c.what for c in found.checks)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer(broken: Path, name: str) -> None:
    (broken / name).write_bytes(POINTER)
    must_find(broken, "files", name, "Git LFS pointer", "git lfs pull", quick=True)


def test_pickles_alone_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")
    must_find(broken, "files", "pytorch_model.bin", "can run any code", quick=True)


def test_a_pickle_beside_the_weights_is_told_and_left_alone(broken: Path) -> None:
    (broken / "training_args.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    found = verify(broken, quick=True)
    assert found.ok
    assert any(c.passed is None and "training_args.bin" in c.what for c in found.checks)


def test_nothing_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(QuantlabError, match="check the path"):
        verify(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    must_find(tmp_path / "empty", "files", "is empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no model")
    must_find(tmp_path / "other", "files", "no model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "quantlab.json"])
def test_a_pipe_in_the_place_of_a_file_is_never_opened(broken: Path, name: str) -> None:
    (broken / name).unlink()
    os.mkfifo(broken / name)
    assert not verify(broken).ok


def _header(folder: Path, change_it: Callable[[dict[str, dict[str, object]]], None]) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change_it(header)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    renew(folder)


def test_a_shape_of_a_million_sizes_is_not_multiplied(broken: Path) -> None:
    _header(broken, lambda header: header["model.norm.weight"].update(shape=[2**62] * 10**6))
    must_find(broken, "headers", "model.norm.weight", "makes no sense", quick=True)


def test_an_empty_tensor(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:0]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    renew(broken)
    must_find(broken, "headers", "model.norm.weight", "holds no number", quick=True)


def test_the_manifest(made: Made, broken: Path) -> None:
    weights = broken / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1000] ^= 1  # one bit
    weights.write_bytes(raw)
    assert verify(broken, quick=True).ok  # sizes are right
    must_find(broken, "manifest", "model.safetensors", "SHA-256 differs")
    weights.write_bytes(bytes(raw) + b"\0")
    found = verify(broken, quick=True)
    assert [c.name for c in found.checks if c.passed is False] == ["headers", "manifest"]
    (broken / "tokenizer_config.json").unlink()
    assert any("tokenizer_config.json is missing" in fault for fault in verify(broken, quick=True).faults)
    assert verify(made("packed")).ok


def test_weights_that_the_manifest_does_not_know(broken: Path) -> None:
    (broken / "extra.safetensors").write_bytes((broken / "model.safetensors").read_bytes())
    must_find(broken, "manifest", "extra.safetensors", "remove it", quick=True)


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": 3}', '{"files": {"../x": {}}}', '{"files": {"a": 1}}', "{"])
def test_a_manifest_that_makes_no_sense(broken: Path, content: str) -> None:
    (broken / "quantlab.json").write_text(content)
    must_find(broken, "manifest", "quantlab.json", "again", quick=True)
