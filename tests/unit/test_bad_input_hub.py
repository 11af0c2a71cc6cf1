"""A model of the Hub: pinned to a commit, and each way in which the Hub can fail is one sentence.

The real client speaks to a small web server of our own (fake_hub.py). It reads its settings when it is imported, so it
runs in processes of its own; because each takes seconds to start, one does many requests.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from bad_models import copy_of, edit, rename, sharded, write
from conftest import Ended
from fake_hub import COMMIT, serving

CHILD = """
import collections, contextlib, errno, io, json, shutil, sys
from unittest.mock import patch
from quantlab.cli import guard
from quantlab.models.load import load, resolve

def small_disk(path):
    return collections.namedtuple("usage", "total used free")(2**40, 2**40, 1_000_000)

def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")

FAULTS = {
    "small disk": ("shutil.disk_usage", small_disk),
    "full disk": ("huggingface_hub.file_download.http_get", full_disk),
}

def work(model, revision, how):
    if how == "load":
        print(type(load(model).model).__name__)
    else:
        found = resolve(model, revision or None)
        print(found.folder, found.revision)

answers = []
for model, revision, how in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with patch(*FAULTS[how]) if how in FAULTS else contextlib.nullcontext():
            code = guard(lambda: work(model, revision, how))
    answers.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub(tiny_folder, tmp_path_factory):
    """The bundled model under several names; OWNER says what goes wrong."""
    root = tmp_path_factory.mktemp("hub")
    owners = ("good", "gated", "busy", "cut", "huge", "evil", "old", "full", "many")
    models = {f"{owner}/model": copy_of(tiny_folder, root / owner) for owner in owners}
    sharded(models["many/model"])
    edit("config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"})(models["evil/model"])
    rename("model.safetensors", "pytorch_model.bin")(models["old/model"])
    for name in ("README.md", "model.gguf", "onnx/model.onnx", "training_args.bin", "modeling.py"):
        (models["good/model"] / name).parent.mkdir(exist_ok=True)
        write(models["good/model"], name, b"not needed")
    with serving(models) as server:
        yield server


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    """ask((model, revision, how), ...) -> how each ended; all in one process, whose cache the next one finds."""
    home = tmp_path_factory.mktemp("hf")

    def run(*jobs, **environment):
        settings = {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
            "HF_TOKEN": "", "HF_HUB_DISABLE_XET": "1", **environment,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(jobs)],
            env=os.environ | settings, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [Ended(*answer) for answer in json.loads(done.stdout)]

    return run


# (model, revision, how) -> words of the sentence; none of them may fetch the weights
REFUSED = {
    ("gated/model", "", ""): ("gated/model is gated", "accept its terms", "hf auth login"),
    ("no/such", "", ""): ("no/such is neither a folder here nor a model on the Hub", "check the spelling"),
    ("many/model", "v9", ""): ("many/model has no revision 'v9'",),
    ("busy/model", "", ""): ("the Hub refused busy/model: 503", "try again later"),
    ("old/model", "", ""): ("only a pickle checkpoint (pytorch_model.bin)", "refused"),
    ("evil/model", "", ""): ("Python code of its own, which is refused", "--trust-remote-code evil/model"),
    ("huge/model", "", ""): ("downloading huge/model needs", "MiB are free", "free some space"),
    ("full/model", "", "small disk"): ("downloading full/model needs 21 MiB", "1 MiB are free"),
    ("full/model", "", "full disk"): ("cannot download full/model", "the disk is full", "HF_HOME"),
}
NO_HUB_ID = [("a/b!c", "", ""), ("a--b", "", ""), ("x" * 97, "", "")]
FETCHED = [("good/model", "", ""), ("good/model", COMMIT, ""), ("many/model", "", ""), ("cut/model", "", "")]


def downloaded(hub, owner):
    return [line.split("/")[-1] for line in hub.asked if line.startswith(f"GET /{owner}/model/resolve/")]


@pytest.fixture(scope="module")
def online(ask):
    """How each request with a network ended."""
    jobs = [*REFUSED, *NO_HUB_ID, *FETCHED]
    return dict(zip(jobs, ask(*jobs), strict=True))


@pytest.mark.parametrize("job", REFUSED, ids=" ".join)
def test_what_is_refused_is_one_sentence_before_the_weights_travel(online, hub, job):
    online[job].must_say(1, *REFUSED[job])
    assert "model.safetensors" not in downloaded(hub, job[0].split("/")[0])


@pytest.mark.parametrize("job", NO_HUB_ID, ids=lambda job: job[0][:9])
def test_a_name_that_cannot_be_a_hub_id(online, job):
    online[job].must_say(2, "neither a folder here nor a Hub id")


def test_a_good_model_is_pinned_and_fetched_once_and_nothing_else_is(online, hub):
    first, again = online["good/model", "", ""], online["good/model", COMMIT, ""]
    assert (first.code, again.code, again.out) == (0, 0, first.out), (first, again)
    folder, commit = first.out.split()
    assert commit == COMMIT
    assert folder.endswith(f"snapshots/{COMMIT}")
    assert f"quantlab: good/model at commit {COMMIT} (main today)" in first.err
    assert "downloading" in first.err
    assert "downloading" not in again.err
    # nothing that loading does not need: no pickle, no code, no other format; and each file once
    assert sorted(downloaded(hub, "good")) == [
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip


def test_shards_are_fetched_all(online, hub):
    assert online["many/model", "", ""].code == 0
    assert {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)} < set(downloaded(hub, "many"))


def test_an_interrupted_download_is_taken_up_again(online, ask, hub):
    online["cut/model", "", ""].must_say(1, "the download of cut/model was interrupted", "run the same command again")
    hub.healed = True
    before = len(downloaded(hub, "cut"))
    [ended] = ask(("cut/model", "", ""))
    assert ended.code == 0, ended
    assert downloaded(hub, "cut")[before:] == ["model.safetensors"]


def test_nothing_half_written_is_left(online):
    hf = Path(online["good/model", "", ""].out.split()[0]).parents[2]
    assert [path for path in hf.rglob("*") if path.name.endswith((".incomplete", ".tmp"))] == []


def test_offline_the_cache_is_enough_and_nobody_is_asked(online, ask, hub):
    asked = len(hub.asked)
    found, loaded, incomplete, unknown = ask(
        ("good/model", "", ""), ("good/model", "", "load"), ("full/model", "", ""), ("no/such", "", ""),
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert (found.code, found.out) == (0, online["good/model", "", ""].out)
    assert "from the cache" in found.err
    assert (loaded.code, loaded.out) == (0, "LlamaForCausalLM\n")
    incomplete.must_say(1, "full/model", "nor complete in the Hub's cache", "HF_HUB_OFFLINE is set")
    unknown.must_say(1, "no/such", "HF_HUB_OFFLINE is set", "unset it")
    assert len(hub.asked) == asked


def test_a_damaged_copy_in_the_cache_is_found(online, ask):
    blob = Path(online["many/model", "", ""].out.split()[0], "model-00001-of-00002.safetensors").resolve()
    os.truncate(blob, 1_000_000)
    [ended] = ask(("many/model", "", ""), HF_HUB_OFFLINE="1")
    ended.must_say(1, "model-00001-of-00002.safetensors is cut short")


def test_no_network(ask):
    with socket.socket() as nobody:  # bound and not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        [ended] = ask(("good/model", "", ""), HF_ENDPOINT=closed)
    ended.must_say(1, "the Hub cannot be reached", "HF_HUB_OFFLINE=1", "`tiny`")


def test_a_cache_that_cannot_be_written(ask, tmp_path):
    (tmp_path / "file").touch()
    [ended] = ask(("good/model", "", ""), HF_HOME=str(tmp_path / "file"))
    ended.must_say(1, "cannot download good/model", "HF_HOME")
