"""`quantlab quantize` before its work begins, and when it is interrupted: a sentence, an exit code, nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bad_models import copy_of, edit, remove

from quantlab import atomic
from quantlab.backends.quantizers import checks, libraries, making


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that gets as far as a library fails, unless it says so."""
    if "starts" not in request.fixturenames:
        monkeypatch.setattr(making, "run", lambda *_: pytest.fail("a library was started"))


@pytest.fixture
def starts() -> None:
    """This test really starts a library."""


class TestTheRequest:
    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["--backend", "awq"], 2, "unknown backend 'awq'; did you mean 'autoawq'?"),
            (["--method", "gtpq"], 2, "did you mean 'gptq'?"),
            (["--backend", "autoawq", "--bits", "3"], 1, "autoawq does not make 3-bit; the nearest is"),
            (["--bits", "four"], 2, "not a valid integer"),
            (["--backend", "autoawq", "--resume"], 2, "only --backend quantlab can resume"),
            (["--backend", "llama.cpp"], 2, "this makes one GGUF file; name it made.gguf"),
            (["--backend", "bitsandbytes", "--keep", "dwn_proj"], 2, "'dwn_proj'; did you mean 'down_proj'?"),
            (["--backend", "llama.cpp", "--keep", "down_proj"], 2, "this makes one GGUF file; name it made.gguf"),
            (["--no-clip"], 2, "only AutoAWQ can leave its search for ranges out; for quantlab leave --no-clip out"),
            (["--backend", "autoawq", "--keep", "down_proj"], 2, "AutoAWQ searches scales over all layers of a block"),
            (["--keep", "*"], 2, "--keep leaves nothing to quantize"),
            (["--backend", "bitsandbytes", "--calibration", "TEXT"], 2, "looks at no text; leave --calibration, --w"),
            (["--backend", "bitsandbytes", "--window", "64"], 2, "looks at no text; leave --calibration, --w"),
            (
                ["--backend", "quantlab", "--method", "hqq", "--symmetric"],
                1,
                "does not make hqq symmetric; the nearest",
            ),
            (["--window", "9999"], 1, "takes at most 512 tokens, not 9999"),
        ],
    )
    def test_is_wrong(self, run_cli, tmp_path: Path, words: list[str], code: int, said: str) -> None:
        (tmp_path / "text.txt").write_text("Once upon a time " * 100)
        words = [str(tmp_path / "text.txt") if word == "TEXT" else word for word in words]
        run_cli("quantize", "tiny", "--out", tmp_path / "made", *words).must_say(code, said)
        assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]

    def test_a_group_that_does_not_divide_the_rows(self, run_cli, tiny_folder: Path, tmp_path: Path) -> None:
        folder = copy_of(tiny_folder, tmp_path / "model")
        edit("config.json", intermediate_size=1376)(folder)  # 1376 = 43 * 32
        run_cli("quantize", folder, "--out", tmp_path / "made").must_say(
            1, "do not divide into groups of 128", "take --group 32"
        )


class TestThePlace:
    def test_it_exists(self, run_cli, tmp_path: Path) -> None:
        (tmp_path / "made").mkdir()
        run_cli("quantize", "tiny", "--out", tmp_path / "made").must_say(1, "made exists already; choose another name")

    def test_it_is_inside_a_file(self, run_cli, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        run_cli("quantize", "tiny", "--out", tmp_path / "file" / "made").must_say(1, "cannot write", "file is a file")

    def test_it_is_not_writable(self, run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks.os, "access", lambda path, mode: False)  # root may write everywhere
        run_cli("quantize", "tiny", "--out", tmp_path / "made").must_say(1, "is not writable for you; choose a folder")

    def test_the_disk_is_full(self, run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        run_cli("quantize", "tiny", "--out", tmp_path / "made").must_say(
            1, "quantizing story-model needs", "free some space"
        )
        assert list(tmp_path.iterdir()) == []

    def test_the_memory_is_full(self, run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import psutil

        memory = psutil.virtual_memory()
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=2**20))
        ended = run_cli("quantize", "tiny", "--backend", "bitsandbytes", "--out", tmp_path / "made")
        ended.must_say(1, "bitsandbytes needs at least 0.5 GiB of memory for story-model, 0.0 GiB are free")


class TestTheModel:
    def test_it_is_quantized_already(self, run_cli, tiny_folder: Path, tmp_path: Path) -> None:
        folder = copy_of(tiny_folder, tmp_path / "model")
        edit("config.json", quantization_config={"quant_method": "awq"})(folder)
        run_cli("quantize", folder, "--out", tmp_path / "made").must_say(
            1, "is quantized already (awq); give the original"
        )

    def test_it_is_of_no_known_architecture(self, run_cli, tiny_folder: Path, tmp_path: Path) -> None:
        folder = copy_of(tiny_folder, tmp_path / "model")
        edit("config.json", model_type="mine")(folder)
        run_cli("quantize", folder, "--out", tmp_path / "made").must_say(1, "not a language model that transformers")

    def test_the_library_does_not_know_it(self, run_cli, tiny_folder: Path, tmp_path: Path) -> None:
        folder = copy_of(tiny_folder, tmp_path / "model")
        edit("config.json", model_type="olmo2", architectures=["Olmo2ForCausalLM"])(folder)
        ended = run_cli("quantize", folder, "--backend", "autoawq", "--out", tmp_path / "made")
        ended.must_say(1, "AutoAWQ does not load models of type 'olmo2'; take a model of type llama, mistral")

    def test_it_has_no_tokenizer(self, run_cli, tiny_folder: Path, tmp_path: Path) -> None:
        folder = copy_of(tiny_folder, tmp_path / "model")
        remove("tokenizer.json")(folder)
        run_cli("quantize", folder, "--out", tmp_path / "made").must_say(1, "holds no tokenizer; copy tokenizer.json")


class TestTheText:
    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("empty.txt", b" \n", "is empty; give a file with text"),
            ("short.txt", b"Once upon a time", "tokens, too few for 8 windows of 512; give more text, or cut it"),
            ("latin.txt", "Das M\u00e4dchen".encode("latin-1"), "is not UTF-8 (byte 5); convert it, as with: iconv"),
            ("bad.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', "line 2 of"),
            ("number.jsonl", b'{"text": 5}\n', "the text in quotes"),
        ],
    )  # fmt: skip
    def test_is_unsuitable(self, run_cli, tmp_path: Path, name: str, content: bytes, said: str) -> None:
        (tmp_path / name).write_bytes(content)
        run_cli("quantize", "tiny", "--calibration", tmp_path / name, "--out", tmp_path / "made").must_say(1, said)
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_is_missing(self, run_cli, tmp_path: Path) -> None:
        ended = run_cli("quantize", "tiny", "--calibration", tmp_path / "none.txt", "--out", tmp_path / "made")
        ended.must_say(1, "cannot read the calibration text", "No such file")


class TestTheLibrary:
    def test_is_not_installed(self, run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(libraries, "find_spec", lambda name: None)
        ended = run_cli("quantize", "tiny", "--backend", "autoawq", "--out", tmp_path / "made")
        ended.must_say(1, "AutoAWQ is not installed here; get it with: pip install 'quantlab[quantizers]'")

    def test_has_no_environment_yet(self, run_cli, tmp_path: Path) -> None:
        ended = run_cli("quantize", "tiny", "--backend", "gptqmodel", "--out", tmp_path / "made")
        ended.must_say(1, "make it with `quantlab env create gptqmodel`, which says first what it costs")

    def test_needs_a_gpu(self, run_cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "has_nvidia", lambda: False)
        ended = run_cli(
            "quantize", "tiny", "--backend", "llm-compressor", "--method", "awq", "--out", tmp_path / "made"
        )
        ended.must_say(1, "llm-compressor's awq needs an NVIDIA GPU", "take --backend autoawq or quantlab")


def test_an_interrupt_leaves_nothing_but_what_was_asked_for(starts: None, tmp_path: Path) -> None:
    words = ["quantize", "tiny", "--method", "gptq", "--out", str(tmp_path / "made"), "--samples", "8", "--resume"]
    process = subprocess.Popen(
        [sys.executable, "-m", "quantlab.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stderr
    for line in process.stderr:
        if "model.layers.1" in line:  # one block is done
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "quantlab: interrupted; nothing half-written was left behind"
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["made.resume"]
    assert (tmp_path / "made.resume" / "block-0000.safetensors").is_file()


def test_what_is_told_when_it_is_done(starts: None, run_cli, tmp_path: Path) -> None:
    began = time.monotonic()
    ended = run_cli("quantize", "tiny", "--method", "rtn", "--format", "nvfp4", "--out", tmp_path / "made")
    assert ended.code == 0, ended
    assert "nvfp4: 4.5 bits a weight" in ended.out
    assert f"quantlab verify {tmp_path / 'made'}" in ended.out
    assert f"quantlab serve {tmp_path / 'made'} --engine vllm" in ended.out
    assert {"config.json", "model.safetensors", "quantlab.json", "README.md", "tokenizer.json"} <= {
        path.name for path in (tmp_path / "made").iterdir()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert time.monotonic() - began < 120
