"""JupyterLab as a child process that never outlives its owner.

It has a session of its own, so that Ctrl-C reaches us alone: Jupyter would ask "Shut down this server?" instead of
ending. We end it, wait for its kernels, and end by force what is left. It listens on 127.0.0.1 only, with a random
token, and what it says goes to a log.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import psutil

from quantlab.atomic import explained, write_text
from quantlab.errors import QuantlabError
from quantlab.serve.address import bind

HOST = "127.0.0.1"
FIRST_PORT = 8888  # where people look for Jupyter
READY_WITHIN_S = 120.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never ask a proxy for 127.0.0.1


def free_port(asked: int | None = None) -> int:
    """The port asked for, if it is free; without one, the first free port from 8888 on.

    >>> free_port() >= FIRST_PORT
    True
    """
    if asked is not None:
        return _try(asked)
    for port in range(FIRST_PORT, FIRST_PORT + 100):
        with suppress(QuantlabError):
            return _try(port)
    return _try(0)


def _try(port: int) -> int:
    with bind(HOST, port) as found:
        found.listen()
        return int(found.getsockname()[1])


class Jupyter:
    """JupyterLab on a folder; a context manager that ends it.

    >>> with Jupyter(root, "lessons/01_the_memory_problem.ipynb") as lab:                   # doctest: +SKIP
    ...     print(lab.url)
    ...     lab.wait()
    """

    def __init__(self, root: Path, notebook: str, port: int | None = None, browser: bool = False) -> None:
        self.root, self.page, self.browser = root, f"/lab/tree/{quote(notebook)}", browser
        self.port = free_port(port)
        self.log = root / ".quantlab" / "jupyter.log"
        self._token = secrets.token_hex(24)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The link that opens the notebook, token included."""
        return f"http://{HOST}:{self.port}{self.page}?token={self._token}"

    @property
    def pid(self) -> int:
        """Number of JupyterLab's process."""
        assert self._process, "not started"
        return self._process.pid

    def __enter__(self) -> Jupyter:
        with explained(self.log):
            self.log.parent.mkdir(exist_ok=True)
            self._write_settings()
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds the token
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "quantlab.start.lab"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.root, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(log)
        try:
            self._send_arguments()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> int:
        """Wait until JupyterLab ends by itself (File > Shut Down); its exit code."""
        assert self._process, "not started"
        return self._process.wait()

    def stop(self, grace_s: float = 10.0) -> None:
        """End JupyterLab and every process that it started; nothing happens when it has ended."""
        if self._process is None:
            return
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
        try:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        finally:  # also when Ctrl-C comes a second time
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.kill()
            self._process.wait()
            if self._process.stdin:
                with suppress(OSError):
                    self._process.stdin.close()

    @property
    def _settings(self) -> Path:
        return self.log.parent / "jupyterlab"

    def _write_settings(self) -> None:
        """JupyterLab's defaults for this course: it does not ask whether it may show news."""
        self._settings.mkdir(exist_ok=True)
        defaults = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
        write_text(self._settings / "overrides.json", json.dumps(defaults))

    def _send_arguments(self) -> None:
        assert self._process
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it died at once; the log says why
            self._process.stdin.write(json.dumps(self._arguments()).encode() + b"\n")
            self._process.stdin.flush()

    def _arguments(self) -> list[str]:
        """Jupyter's options; given as arguments, they win over the user's own configuration files."""
        return [
            f"--ServerApp.ip={HOST}", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.root}", "--ServerApp.base_url=/", f"--ServerApp.open_browser={self.browser}",
            f"--ServerApp.allow_root={os.geteuid() == 0}",
            f"--IdentityProvider.token={self._token}", f"--LabApp.default_url={self.page}",
            f"--LabApp.app_settings_dir={self._settings}",
            # no look on the network for news or for a newer version
            "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]  # fmt: skip

    def _wait_until_ready(self) -> None:
        assert self._process
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                raise QuantlabError(
                    f"JupyterLab ended at once (exit code {code}): {self._why()}; all of it: {self.log}"
                )
            if self._answers():
                return
            time.sleep(0.1)
        raise QuantlabError(f"JupyterLab did not start within {READY_WITHIN_S:.0f} s; see {self.log}, then try again")

    def _answers(self) -> bool:
        """Whether it is our server that answers: only ours knows the token."""
        ask = urllib.request.Request(
            f"http://{HOST}:{self.port}/api/status", headers={"Authorization": f"token {self._token}"}
        )
        try:
            with _DIRECT.open(ask, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # refused, timed out, or an HTTP error: not ours, or not yet
            return False

    def _why(self) -> str:
        with suppress(OSError):
            lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
            said = [line for line in lines if line]
            return (said or ["it said nothing"])[-1]
        return "its log cannot be read"
