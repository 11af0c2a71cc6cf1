"""Make an isolated environment, go on with a half-made one, remove one.

    venv      a virtual environment with the Python that runs quantlab
    torch     in the build that suits the machine, as tools/install.py does it: without an NVIDIA driver the CPU build
    lock      every other package by its hash, without resolving anything
    check     the environment's own Python runs the library once
    marker    quantlab.json: from here on it is used

Each step looks first whether its result is there, so that going on after an interrupt is cheap. What pip had begun to
unpack when it was stopped is recognised by the INSTALLER file, which pip writes last, and unpacked again. All that pip
prints goes to CACHE/environments/NAME.log.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.atomic import explained, require_space, write_text
from quantlab.backends.chatter import tail, telling
from quantlab.backends.children import child
from quantlab.backends.environments import MARKER, Build, Environment, State, apart, state
from quantlab.errors import QuantlabError

Say = Callable[[str], None]

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
SPARE = 1.3  # of the measured size: pip unpacks archives beside what it installs
BEGUN = re.compile(
    r"^\s*(?:Downloading|Using cached|Processing) (?:\S*/)?(?P<file>[\w.+-]+\.(?:whl|tar\.gz)\S*)"
    r"|^\s*(?P<step>Building wheel for \S+|Installing collected packages)"
)
TELLING = tuple(
    re.compile(pattern)
    for pattern in (
        r"No space left on device",
        r"^ERROR: (?P<why>THESE PACKAGES DO NOT MATCH THE HASHES.*?)(\. |$)",
        r"(?P<why>Connection to \S+ timed out|Temporary failure in name resolution|Failed to establish a .*connection)",
        r"(?P<why>fatal error: .+|\berror: (?!subprocess|metadata).+)",  # a compiler
        r"^ERROR: (?P<why>(?!Failed building|Could not build).+)",
        r"^(?:[\w.]+\.)?\w*(?:Error|Exception)\b:? ?(?P<why>.*\S.*)",
        r"\S",
    )
)


def size_of(folder: Path) -> int:
    """Bytes on the disk of everything in a folder; 0 if it is not there."""
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
    return total


def create(environment: Environment, say: Say = lambda _: None) -> State:
    """Make an environment, or finish or renew what is there; returns its state.

    Raises QuantlabError with the one thing to mend: too little disk, no network, a package that does not install, a
    check that fails. What was done until then stays, and the next call goes on from there.
    """
    build, folder = environment.build(), environment.folder
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(environment):
        found = state(environment)
        if found.status == "ready" and found.made["fingerprint"] == build.fingerprint:
            return found
        if build.cost is not None:
            left = int(SPARE * build.cost.nbytes) - size_of(folder)
            require_space(folder.parent, max(0, left), f"the environment {environment.name}")
        (folder / MARKER).unlink(missing_ok=True)
        began, fresh = time.monotonic(), found.status == "not made"
        work = _Work(environment, build, folder.with_suffix(".log"), say)
        versions = work.run()
        made = {
            "name": environment.name, "machine": build.machine, "fingerprint": build.fingerprint, "versions": versions,
            "python": platform.python_version(), "made": time.strftime("%Y-%m-%d"), "nbytes": size_of(folder),
            "seconds": round(time.monotonic() - began) if fresh else None,
        }  # fmt: skip
        write_text(folder / MARKER, json.dumps(made, indent=1) + "\n")
        work.log.unlink(missing_ok=True)
    return state(environment)


def remove(environment: Environment) -> int:
    """Delete an environment, whole or half made; returns the bytes that are free again."""
    with explained(environment.folder):
        if not environment.folder.exists():
            raise QuantlabError(f"there is no environment {environment.name}; `quantlab env list` shows those that are")
        with _alone(environment):
            nbytes = size_of(environment.folder)
            (environment.folder / MARKER).unlink(missing_ok=True)  # first: what is left is then nobody's environment
            shutil.rmtree(environment.folder)
            environment.folder.with_suffix(".log").unlink(missing_ok=True)
        return nbytes


@contextmanager
def _alone(environment: Environment) -> Iterator[None]:
    """Two processes must not install into one folder."""
    path = environment.folder.with_suffix(".lock")
    with explained(path), path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise QuantlabError(
                f"another process is at work on the environment {environment.name}; wait until it is done"
            ) from error
        yield


@dataclass(frozen=True)
class _Work:
    """The steps of making one environment."""

    environment: Environment
    build: Build
    log: Path
    say: Say

    def run(self) -> dict[str, str]:
        """All steps; the versions that the finished environment reports."""
        with explained(self.log):
            self.log.write_bytes(b"")
        try:
            self._venv()
            if self.build.torch is not None:
                self._torch(self.build.torch)
            self._lock()
            for name, version in self.build.names:
                self._name(name, version)
            return self._check()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def _scratch(self) -> Path:
        """Where pip unpacks and builds: on the disk whose free space was looked at."""
        return self.environment.folder / "tmp"

    @property
    def _packages(self) -> Path:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        return self.environment.folder / "lib" / version / "site-packages"

    def _venv(self) -> None:
        python, folder = self.environment.python, self.environment.folder
        if not self._packages.is_dir() or not self._works([str(python), "-m", "pip", "--version"]):
            self.say("making a virtual environment")
            shutil.rmtree(folder, ignore_errors=True)  # of another Python, or of one that is gone
            if self._lines([sys.executable, "-m", "venv", str(folder)], self.say) != 0:
                raise self._failed("the virtual environment")
        self._scratch.mkdir(exist_ok=True)
        for info in self._packages.glob("*.dist-info"):
            if not (info / "INSTALLER").exists():
                shutil.rmtree(info)

    def _torch(self, version: str) -> None:
        if self._installed("torch") == version:
            return
        ways = [[f"torch=={version}"]]
        if sys.platform == "linux" and self.build.machine == "cpu":
            cpu = ["--no-deps", f"torch=={version}+cpu"]  # what it needs is in the lock
            ways = [cpu, [*cpu, "--extra-index-url", CPU_WHEELS], *ways]
        self.say(f"installing torch {version}")
        if not any(self._pip(*way) for way in ways):
            raise self._failed(f"torch {version}")

    def _lock(self) -> None:
        self.say(f"installing {self.build.packages} packages")
        if not self._pip("--no-deps", "--require-hashes", "-r", str(self.build.lock_file)):
            raise self._failed("the packages")

    def _name(self, name: str, version: str) -> None:
        """A distribution of metadata alone."""
        folder = self._packages / f"{name}-{version}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        files = [f"{folder.name}/{file}" for file in ("METADATA", "INSTALLER", "RECORD")]
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")
        (folder / "INSTALLER").write_text("quantlab\n", encoding="utf-8")

    def _check(self) -> dict[str, str]:
        self.say(f"trying {self.environment.name}")
        answer: list[str] = []
        environment = apart() | {"HF_HUB_OFFLINE": "1"}
        code = self._lines([str(self.environment.python), "-P", "-c", self.build.check], answer.append, environment)
        objects = [line for line in answer if line.startswith("{")]  # libraries print on their way out
        try:
            versions: Any = json.loads(objects[-1]) if code == 0 else None
        except (IndexError, ValueError):
            versions = None
        if not isinstance(versions, dict):
            raise self._failed("the check")
        return versions

    def _installed(self, name: str) -> str | None:
        for info in self._packages.glob(f"{name}-*.dist-info"):
            return info.name.removesuffix(".dist-info").partition("-")[2].partition("+")[0]
        return None

    def _works(self, command: Sequence[str]) -> bool:
        with suppress(OSError, subprocess.TimeoutExpired):
            return subprocess.run(command, capture_output=True, env=apart(), timeout=60, check=False).returncode == 0
        return False

    def _pip(self, *words: str) -> bool:
        """Run the environment's pip; its steps are told as they come."""

        def tell(line: str) -> None:
            if found := BEGUN.search(line):
                self.say(f"fetching {found['file']}" if found["file"] else found["step"][0].lower() + found["step"][1:])

        options = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        command = [str(self.environment.python), "-m", "pip", "install", *options, *words]
        environment = apart() | {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "TMPDIR": str(self._scratch)}
        return self._lines(command, tell, environment) == 0

    def _lines(self, command: Sequence[str], tell: Say, environment: dict[str, str] | None = None) -> int:
        """Run a command; each line that it prints goes to the log and to `tell`. Returns its exit code."""
        with (
            self.log.open("ab") as log,
            child(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                  env=apart() if environment is None else environment) as process,
        ):  # fmt: skip
            assert process.stdout
            for raw in process.stdout:
                log.write(raw)
                log.flush()
                tell(raw.decode("utf-8", "replace").rstrip())
            return process.wait()

    def _failed(self, what: str) -> QuantlabError:
        why = telling(tail(self.log), TELLING) or "it printed nothing"
        name = self.environment.name
        return QuantlabError(
            f"{what} of the environment {name} could not be made: {why} (log: {self.log}); mend that, then "
            f"`quantlab env create {name}` goes on from there"
        )
