"""vLLM as an engine: found or not, what it is called with, and what it refuses. The real server: docs/serving.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quantlab.errors import UsageError
from quantlab.serve import engines
from quantlab.serve.artifacts import folder_for
from quantlab.serve.vllm_server import arguments, cores

SETTINGS = {"path": "/models/m", "model": "m", "context": 512, "threads": 2}


@pytest.fixture(autouse=True)
def _no_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QUANTLAB_VLLM", raising=False)
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path / "cache"))  # a learner may have made its environment
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_vllm_it_says_how_to_name_it() -> None:
    assert "set QUANTLAB_VLLM" in str(engines.engine("vllm").missing())


def test_a_wrong_place_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTLAB_VLLM", str(tmp_path))
    assert f"{tmp_path / 'bin/python'} is no Python" in str(engines.engine("vllm").missing())


def test_the_python_of_a_vllm_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = tmp_path / "vllm"
    command.write_text(f"#!{sys.executable}\nimport vllm\n")
    command.chmod(0o755)
    assert engines.vllm_python() == Path(sys.executable)
    assert engines.engine("vllm").missing() is None


def test_the_key_and_the_method_are_no_arguments() -> None:
    for cpu in (False, True):
        words = arguments({**SETTINGS, "key": "secret"}, "127.0.0.1", 8101, cpu)
        assert words[:3] == ["vllm", "serve", "/models/m"]
        assert words[words.index("--port") + 1] == "8101"
        assert "secret" not in " ".join(words)
        assert "--quantization" not in words
        assert ("--enforce-eager" in words) == cpu


def test_threads_are_bound_to_cores_that_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {6, 4, 5}, raising=False)
    assert (cores(1), cores(2), cores(8)) == ("4", "4,5", "4,5,6")


def test_a_gguf_file_and_a_format_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"llama\.cpp serves GGUF files"):
        folder_for("model.gguf")
    with pytest.raises(UsageError, match="serves a checkpoint as it is"):
        folder_for("tiny", "q4_0")


def test_a_folder_is_served_as_it_is(tiny_folder: Path) -> None:
    artifact = folder_for(str(tiny_folder))
    assert (artifact.path, artifact.window, artifact.chat) == (tiny_folder.absolute(), 512, True)


def test_options_of_vllm_become_its_flags_and_those_that_are_ours_are_refused() -> None:
    from quantlab import Server
    from quantlab.serve.engines import vllm_flags

    options = {"gpu_memory_utilization": 0.3, "speculative_config": {"method": "ngram"}, "enable_prefix_caching": False}
    assert vllm_flags(options) == (
        "--gpu-memory-utilization", "0.3", "--speculative-config", '{"method": "ngram"}', "--no-enable-prefix-caching",
    )  # fmt: skip
    for name in ("quantization", "api_key", "--host", "trust-remote-code"):
        with pytest.raises(UsageError, match="not yours to set"):
            vllm_flags({name: "x"})
    with pytest.raises(UsageError, match="no option of vLLM"):
        vllm_flags({"a b": 1})
    with pytest.raises(UsageError, match="takes no options"):
        Server("tiny", options={"kv_cache_dtype": "fp8"})
