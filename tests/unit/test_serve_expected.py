"""Memory planned before a server starts: the files' own bytes, the cache of a whole text, and a refusal in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantlab.checkpoints.gguf import write_gguf
from quantlab.models.bundled import tiny_folder
from quantlab.plan.gpus import gpu
from quantlab.plan.memory import VLLM_UTILIZATION, kv_bytes_per_token
from quantlab.serve import expected as module
from quantlab.serve.artifacts import Artifact, folder_for
from quantlab.serve.expected import CPU_CACHE, Expected, expected

FOLDER = Artifact(tiny_folder(), "tiny", 512, True)


def test_a_folder_on_a_cpu() -> None:
    found = expected(FOLDER, 512, "vllm")
    assert found
    assert found.weights == (tiny_folder() / "model.safetensors").stat().st_size
    assert found.cache == CPU_CACHE
    assert found.fits
    assert "GiB of weights" in found.words()


def test_a_gguf_file_has_the_cache_of_one_text(tmp_path: Path) -> None:
    file = write_gguf(tiny_folder(), tmp_path / "t.gguf", "f16")
    found = expected(Artifact(file, "t", 512, True), 256, "llama.cpp")
    assert found
    assert found.weights == file.stat().st_size
    assert found.cache == 256 * kv_bytes_per_token("tiny")


def test_a_card_gives_vllms_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "nvidia_gpus", lambda: [gpu("l4")])
    found = expected(FOLDER, 512, "vllm")
    assert found
    assert found.room == int(gpu("l4").memory_bytes * VLLM_UTILIZATION)
    assert "L4" in found.words()
    assert found.cache == 512 * kv_bytes_per_token("tiny")


def test_what_is_no_model_has_no_plan(tmp_path: Path) -> None:
    assert expected(Artifact(tmp_path / "nothing", "n", None, False), 512, "llama.cpp") is None


def test_a_family_that_is_not_known_counts_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "new"}', encoding="utf-8")
    (tmp_path / "m.safetensors").write_bytes(b"12345678")
    found = expected(Artifact(tmp_path, "n", None, False), 512, "llama.cpp")
    assert found
    assert (found.weights, found.cache) == (8, 0)


def test_too_little_memory_is_one_sentence_with_the_ways_out() -> None:
    said = Expected("big", 20 * 2**30, 2**30, 16 * 2**30, "free on this machine", 4096)
    assert not said.fits
    assert "5.00 GiB are missing" in said.refusal()
    assert "quantlab plan" in said.refusal()


def test_vllm_is_not_started_where_it_cannot_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from quantlab.errors import QuantlabError
    from quantlab.serve.engines import ENGINES
    from quantlab.serve.server import Server

    def never(_: object) -> None:
        raise AssertionError("it was started")

    tight = replace(ENGINES["vllm"], missing=lambda: None, prepare=folder_for, launch=never)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "memory_limit", lambda: 2**20)
    server = Server(str(tiny_folder()), engine=tight)
    with pytest.raises(QuantlabError, match="does not fit"):
        server.start()
    assert not server.alive
