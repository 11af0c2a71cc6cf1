"""A model of the Hub: pinned to a commit, and each way in which the Hub can fail is one sentence.

The real client speaks to a small web server of our own (fake_hub.py), in a process of its own because it reads its
settings when it is imported.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from bad_models import copy_of, edit, rename, sharded, write
from fake_hub import COMMIT, serving

SCRIPT = """
import os, sys
from quantlab.cli import guard
from quantlab.models.load import load, resolve
if os.environ.get("FREE"):
    import collections, shutil
    usage = collections.namedtuple("usage", "total used free")
    shutil.disk_usage = lambda path: usage(2**40, 2**40, int(os.environ["FREE"]))
if os.environ.get("FULL"):
    import errno, huggingface_hub.file_download as download
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")
    download.http_get = full
def work():
    if os.environ.get("LOAD"):
        found = load(sys.argv[1])
        print(found.source.folder, found.source.revision, type(found.model).__name__)
    else:
        found = resolve(sys.argv[1], revision=sys.argv[2] or None)
        print(found.folder, found.revision)
sys.exit(guard(work))
"""


@pytest.fixture
def hub(tiny_folder, tmp_path):
    """The bundled model under several names, as OWNER/NAME says what goes wrong."""
    names = (
        "good/model",
        "gated/model",
        "busy/model",
        "cut/model",
        "huge/model",
        "many/shards",
        "evil/model",
        "old/model",
    )
    models = {name: copy_of(tiny_folder, tmp_path / "hub" / name) for name in names}
    sharded(models["many/shards"])
    edit("config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"})(models["evil/model"])
    rename("model.safetensors", "pytorch_model.bin")(models["old/model"])
    for name in ("README.md", "model.gguf", "onnx/model.onnx", "training_args.bin", "modeling.py"):
        (models["good/model"] / name).parent.mkdir(exist_ok=True)
        write(models["good/model"], name, b"not needed")
    with serving(models) as server:
        yield server


@pytest.fixture
def resolve(hub, tmp_path, run_cli_process):
    """resolve("good/model") in a process of its own -> Ended(code, out, err)."""
    Ended = type(run_cli_process("--version"))

    def run(model, revision="", **environment):
        settings = {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "", "HF_HUB_DISABLE_XET": "1", **environment,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, model, revision],
            env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def downloaded(hub):
    return {line.split("/")[-1] for line in hub.asked if line.startswith("GET") and "/resolve/" in line}


def test_a_good_model_is_pinned_fetched_once_and_works_offline(resolve, hub):
    first = resolve("good/model")
    assert first.code == 0, first
    folder, commit = first.out.split()
    assert commit == COMMIT
    assert folder.endswith(f"snapshots/{COMMIT}")
    assert f"quantlab: good/model at commit {COMMIT} (main today)" in first.err
    assert "downloading" in first.err
    # nothing that loading does not need: no pickle, no code, no other format
    assert downloaded(hub) == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"
    }  # fmt: skip
    hub.asked.clear()
    again = resolve("good/model", COMMIT)
    assert (again.code, again.out) == (0, first.out)
    assert downloaded(hub) == set()
    hub.asked.clear()
    offline = resolve("good/model", HF_HUB_OFFLINE="1")
    assert (offline.code, offline.out) == (0, first.out)
    assert "from the cache" in offline.err
    assert hub.asked == []
    loaded = resolve("good/model", HF_HUB_OFFLINE="1", LOAD="1")
    assert loaded.out.split()[1:] == [COMMIT, "LlamaForCausalLM"]


def test_shards_are_fetched_all(resolve, hub):
    assert resolve("many/shards").code == 0
    assert {f"model-0000{n}-of-00002.safetensors" for n in (1, 2)} < downloaded(hub)


@pytest.mark.parametrize(
    ("model", "revision", "words"),
    [
        ("gated/model", "", ("gated/model is gated", "accept its terms", "hf auth login")),
        ("no/such", "", ("no/such is neither a folder here nor a model on the Hub", "check the spelling")),
        ("good/model", "v9", ("good/model has no revision 'v9'",)),
        ("busy/model", "", ("the Hub refused busy/model: 503", "try again later")),
        ("old/model", "", ("only a pickle checkpoint (pytorch_model.bin)", "refused")),
        ("evil/model", "", ("Python code of its own, which is refused", "--trust-remote-code evil/model")),
        ("huge/model", "", ("downloading huge/model needs", "MiB are free", "free some space")),
    ],
)
def test_what_the_hub_may_answer(resolve, hub, model, revision, words):
    resolve(model, revision).must_say(1, *words)
    assert "model.safetensors" not in downloaded(hub)


@pytest.mark.parametrize("model", ["a/b!c", "a--b", "x" * 97])
def test_a_name_that_cannot_be_a_hub_id(resolve, model):
    resolve(model).must_say(2, "neither a folder here nor a Hub id")


def test_an_interrupted_download_is_taken_up_again(resolve, hub, tmp_path):
    resolve("cut/model").must_say(1, "the download of cut/model was interrupted", "run the same command again")
    assert list(tmp_path.rglob("*.incomplete")) == []
    resolve("cut/model", HF_HUB_OFFLINE="1").must_say(1, "cut/model", "nor complete in the Hub's cache")
    hub.healed = True
    hub.asked.clear()
    assert resolve("cut/model").code == 0
    assert downloaded(hub) == {"model.safetensors"}


def test_no_network(resolve):
    with socket.socket() as nobody:  # bound and not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        resolve("good/model", HF_ENDPOINT=closed).must_say(1, "the Hub cannot be reached", "HF_HUB_OFFLINE=1", "`tiny`")


def test_offline_and_not_in_the_cache(resolve, hub):
    resolve("good/model", HF_HUB_OFFLINE="1").must_say(1, "HF_HUB_OFFLINE is set", "unset it")
    assert hub.asked == []


def test_no_space_is_found_before_the_download(resolve, hub):
    resolve("good/model", FREE="1000000").must_say(1, "downloading good/model needs 21 MiB", "1 MiB are free")
    assert "model.safetensors" not in downloaded(hub)


def test_a_disk_that_fills_up_during_the_download(resolve):
    resolve("good/model", FULL="1").must_say(1, "cannot download good/model", "the disk is full", "HF_HOME")


def test_a_cache_that_cannot_be_written(resolve, tmp_path):
    (tmp_path / "file").touch()
    resolve("good/model", HF_HOME=str(tmp_path / "file")).must_say(1, "cannot download good/model", "HF_HOME")


def test_a_damaged_copy_in_the_cache_is_found(resolve):
    folder = resolve("good/model").out.split()[0]
    blob = os.path.realpath(f"{folder}/model.safetensors")
    with open(blob, "r+b") as file:
        file.truncate(1_000_000)
    resolve("good/model", HF_HUB_OFFLINE="1").must_say(1, "model.safetensors is cut short")
