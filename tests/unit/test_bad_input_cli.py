"""Bad input through the real command line: one sentence, the right exit code, no traceback, nothing half-written.

Each line of "bad input" that a user can type. What the sentences say in detail: test_bad_input_models.py (folders),
test_bad_input_hub.py (the Hub), test_start.py (ports, working copies), test_doctor.py (machines).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from bad_models import WEIGHTS, copy_of, edit, put, remove, rename, sharded, weights

from quantlab import atomic

TAKE_A_MODEL = ("compare", "serve")

BROKEN = {
    "missing folder": (shutil.rmtree, "there is no model folder"),
    "empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "is empty"),
    "corrupt config": (put("config.json", "{"), "is not valid JSON"),
    "pickle checkpoint": (rename(WEIGHTS, "pytorch_model.bin"), "pickle checkpoint"),
    "no safetensors": (remove(WEIGHTS), "no model.safetensors"),
    "not safetensors": (put(WEIGHTS, b"junk" * 100), "does not start as a safetensors file does"),
    "truncated safetensors": (weights(lambda content: content[:-1]), "is cut short"),
    "missing shard": (lambda folder: (sharded(folder), remove("model-00001-of-00002.safetensors")(folder)), "missing"),
    "no tokenizer": (remove("tokenizer.json"), "holds no tokenizer"),
    "unknown architecture": (edit("config.json", model_type="mine"), "not a language model"),
    "code of its own": (
        edit("config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"}), "refused"),
}  # fmt: skip


@pytest.mark.parametrize("command", TAKE_A_MODEL)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_folder(run_cli, tiny_folder, tmp_path, command, name):
    damage, said = BROKEN[name]
    folder = copy_of(tiny_folder, tmp_path / "model")
    damage(folder)
    before = sorted(tmp_path.rglob("*"))
    run_cli(command, folder).must_say(1, said)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_tokenizer_that_does_not_match(run_cli, tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "model")
    edit("config.json", eos_token_id=9999)(folder)
    run_cli("compare", folder, "--json", tmp_path / "out.json").must_say(1, "eos_token_id", "outside the embedding")
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("command", TAKE_A_MODEL)
def test_no_network_for_a_hub_id(run_cli, command):
    run_cli(command, "owner/name").must_say(1, "owner/name is neither a folder here nor", "HF_HUB_OFFLINE is set")


@pytest.mark.parametrize("command", TAKE_A_MODEL)
def test_neither_a_folder_nor_a_hub_id(run_cli, command):
    run_cli(command, "a--b").must_say(2, "neither a folder here nor a Hub id")


def test_an_unknown_format_offers_the_nearest(run_cli, tmp_path):
    ended = run_cli("compare", "tiny", "--formats", "nf4,q4km", "--json", tmp_path / "out.json")
    ended.must_say(2, "unknown format 'q4km'; did you mean 'q4_k_m'?")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["compare"], ["serve"], ["ask"], ["compare", "tiny", "--formats"]])
def test_a_missing_word_is_a_usage_error(run_cli, words):
    run_cli(*words).must_say(2, "--help")


def test_a_file_where_a_folder_is_expected(run_cli, tmp_path):
    (tmp_path / "file").touch()
    run_cli("start", tmp_path / "file", "--no-browser").must_say(1, f"cannot write {tmp_path / 'file'}")
    run_cli("start", tmp_path / "file" / "in", "--no-browser").must_say(1, "cannot write", "not a folder")
    run_cli("compare", "tiny", "--json", tmp_path / "file" / "out.json").must_say(1, "cannot write")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EROFS, "the folder is read-only"), (errno.ENOSPC, "the disk is full")]
)
def test_a_read_only_folder_and_a_full_disk(run_cli, tmp_path, monkeypatch, number, said):
    def fault(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.tempfile, "mkstemp", fault)  # root may write everywhere, so the fault is injected
    run_cli("start", tmp_path / "mine", "--no-browser").must_say(1, "cannot write", said)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_too_little_space_for_a_working_copy(run_cli, tmp_path, monkeypatch):
    enough = atomic.shutil.disk_usage(tmp_path)
    usage = iter([enough])  # doctor's look; then somebody else fills the disk
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: next(usage, enough._replace(free=1000)))
    run_cli("start", tmp_path / "mine", "--no-browser").must_say(1, "the working copy needs", "free some space")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("after_s", [0.7, 4.0])
def test_an_interrupted_run_says_so_and_leaves_nothing(tmp_path, after_s):
    target = tmp_path / "out.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "quantlab.cli", "compare", "tiny", "--json", str(target)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "quantlab: interrupted; nothing half-written was left behind"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
