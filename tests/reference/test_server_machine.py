"""A machine that goes wrong under llama.cpp's real server: killed, out of memory, stuck, out of disk.

What it says is one sentence, every request is accounted for, and nothing is left: no process, no record, no half
file. Servers that go wrong in ways that this one cannot be brought to: tests/unit/test_serve_life.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from request_tally import Tally, gone

from quantlab.errors import QuantlabError
from quantlab.serve.artifacts import gguf_for
from quantlab.serve.engines import ENGINES, Engine, Job, Launch
from quantlab.serve.load import Load, loadtest
from quantlab.serve.server import Server
from quantlab.serve.state import find

pytestmark = pytest.mark.usefixtures("llama_cpp", "own_cache")


def test_a_crash_under_load_loses_no_request_and_leaves_nothing() -> None:
    with Server("tiny", threads=1) as server:
        engine = find(server.url).server.pid

        def crash(done: int, total: int, errors: int) -> None:
            if done == 60:
                os.kill(engine, signal.SIGKILL)

        load = Load(200, concurrency=50)
        prompts = ["Once upon a time"]
        report = loadtest(server.url, server.key, prompts, load, max_tokens=8, timeout_s=20, progress=crash)
        tally = Tally.of("the engine is killed under load", "llama.cpp", report).show()
        assert (tally.sent, tally.lost) == (200, 0)
        assert tally.answered >= 60
        assert set(tally.errors) <= {"broken off", "no connection", "ended too soon"}
        assert sum(tally.errors.values()) > 0
        with pytest.raises(QuantlabError, match="ended by itself"):
            server.wait()
        assert not server.alive
        assert gone(server)


LIMITED = "import os, resource, sys\nresource.setrlimit(resource.RLIMIT_AS, [int(sys.argv[1])] * 2)\n"
LIMITED += "os.execv(sys.argv[2], sys.argv[2:])"


def under(nbytes: int) -> Engine:
    """llama.cpp in a process that is given so much memory."""
    plain = ENGINES["llama.cpp"]

    def launch(job: Job) -> Launch:
        process = plain.launch(job)
        return replace(process, argv=[sys.executable, "-c", LIMITED, str(nbytes), *process.argv])

    return replace(plain, launch=launch)


def must_fail(server: Server) -> str:
    """The one sentence of a start that fails; nothing may be left."""
    with pytest.raises(QuantlabError) as caught:
        server.start()
    assert gone(server)
    assert "\n" not in str(caught.value)
    assert server.key not in str(caught.value)
    assert not server.log.exists() or server.key not in server.log.read_text()
    print(f"\n{caught.value}")
    return str(caught.value)


def test_too_little_memory_for_the_cache(tiny_folder: Path, tmp_path: Path) -> None:
    """A context of 2,000,000 tokens takes 2 x 4 layers x 128 x 2 bytes each: 4,096,000,000 and a little."""
    long = Path(shutil.copytree(tiny_folder, tmp_path / "long"))
    config = json.loads((long / "config.json").read_text())
    (long / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2_000_000}))
    said = must_fail(Server(str(long), context=2_000_000, threads=1, engine=under(2**31)))
    assert "llama.cpp was refused a buffer of 4096" in said
    assert "shorten the context (--context)" in said


def test_too_little_memory_for_the_program_itself() -> None:
    said = must_fail(Server("tiny", threads=1, engine=under(60 * 2**20)))
    assert "the system refused the program memory" in said


def test_a_server_that_never_becomes_ready() -> None:
    stopped: list[int] = []

    def stop_it(text: str) -> None:
        if text.startswith("waiting") and not stopped:
            stopped.append(find().server.pid)
            os.kill(stopped[0], signal.SIGSTOP)

    slow = replace(ENGINES["llama.cpp"], grace_s=0.5)
    said = must_fail(Server("tiny", threads=1, engine=slow, timeout_s=2.0, say=stop_it))
    assert stopped
    assert "was not ready to serve tiny after 2 s" in said


FULL = """
import resource, sys
import quantlab.backends.llama_cpp, quantlab.checkpoints.gguf
from pathlib import Path
from quantlab.errors import QuantlabError
from quantlab.serve.artifacts import gguf_for
from quantlab.serve.places import gguf_folder

def make(fmt, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        print("made", gguf_for("tiny", fmt).path.name)
    except QuantlabError as error:
        print(error)

first, then = sys.argv[1:]
if first:
    make(first, -1)
make(then, 10**6)
print(sorted(path.name for path in gguf_folder().rglob("*") if path.is_file()))
make(then, -1)
"""


def run(code: str, cache: Path, *words: str, mount: str = "") -> str:
    """What a process prints that runs this code, on a disk of its own if `mount` says so."""
    command = [sys.executable, "-c", code, *words]
    if mount:
        command = [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            f'{mount} && exec "$@"',
            "-",
            *command,
        ]
    environment = {**os.environ, "QUANTLAB_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    print(f"\n{done.stdout.strip()}")
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [("", "bf16", "cannot write "), ("bf16", "q8_0", "llama.cpp could not quantize ")],
)
def test_a_write_that_fails_half_way_leaves_no_half_file(first: str, then: str, said: str, tmp_path: Path) -> None:
    """The system refuses all beyond a megabyte: our writer, or llama.cpp's own, gets an error as on a full disk."""
    lines = run(FULL, tmp_path, first, then).splitlines()
    made = [f"tiny-{first}.gguf"] if first else []
    assert lines[: len(made)] == [f"made {name}" for name in made]
    failed, there, again = lines[len(made) :]
    assert failed.startswith(said)
    assert there == str(made)
    assert again == f"made tiny-{then}.gguf"


START = """
import sys
from quantlab.errors import QuantlabError
from quantlab.serve.server import Server
from quantlab.serve.state import members
server = Server(sys.argv[1])
try:
    server.start()
except QuantlabError as error:
    print(error)
print(len(list(members(server.id))), "left")
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A real disk of 4 MiB, in memory, where this machine lets its users mount one."""
    mount = f"mount -t tmpfs -o size=4m none {tmp_path}"
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this machine lets no user mount a disk of his own; the test above has a write that fails")
    said = run(START, tmp_path, "tiny", mount=mount).splitlines()
    assert "the GGUF file tiny-bf16.gguf needs 21 MiB in" in said[0]
    assert said[0].endswith("free some space or choose another folder")
    assert said[1:] == ["0 left"]
    full = f"{mount} && (head -c 9m /dev/zero > {tmp_path}/all || true) 2> /dev/null"
    said = run(START, tmp_path, str(gguf_for("tiny").path), mount=full).splitlines()
    assert said[0].endswith("the disk is full; free some space or choose another folder")
    assert said[1:] == ["0 left"]
