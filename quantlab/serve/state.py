"""Which servers run: one record a server, readable by its user alone, because it holds the server's key.

A process number alone proves nothing: numbers are used again. A record keeps each process's number **and** its start
time, so that a server that is gone is recognised, and no stranger's process is ever taken for ours. Every process of a
server also carries the server's id in its environment, so that grandchildren that outlive their parent are found.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from quantlab.atomic import explained
from quantlab.errors import QuantlabError, unknown
from quantlab.serve.places import servers_folder

ID_VARIABLE = "QUANTLAB_SERVER_ID"  # in the environment of every process of a server
SUPERVISOR = "quantlab.serve.supervisor"  # the module that runs one server; its command line names it
CLOCK_SLACK_S = 2.0  # the kernel's idea of when it booted moves when the clock is set, and start times with it
KEEP_LOGS_S = 7 * 24 * 3600.0  # the log of a server that died by itself stays for a week


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this number now; one that has just ended, but is not reaped, counts from now."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.ZombieProcess:
            return cls(pid, time.time())

    def alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < CLOCK_SLACK_S
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class ServerState:
    """What a client needs to talk to a server, and what it takes to know whether it lives."""

    id: str
    model: str
    engine: str
    url: str
    key: str = field(repr=False)
    chat: bool  # the model has a chat template; a base model is asked to continue the text
    log: str
    owner: Process
    supervisor: Process
    server: Process
    machine: str = field(default_factory=platform.node)  # a home folder may be shared between machines
    started: float = field(default_factory=time.time)

    @property
    def path(self) -> Path:
        """The file that holds this record."""
        return servers_folder() / f"{self.id}.json"

    def alive(self) -> bool:
        """Whether the server and its supervisor both run."""
        return self.supervisor.alive() and self.server.alive()

    def write(self) -> None:
        """Write the record whole or not at all, mode 0600 from its first byte."""
        with explained(self.path):
            handle, name = tempfile.mkstemp(prefix=f".{self.id}.", suffix=".part", dir=self.path.parent)  # mode 0600
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(asdict(self), file)
                os.replace(name, self.path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(name)

    def remove(self) -> None:
        """Forget the server."""
        self.path.unlink(missing_ok=True)


def read(path: Path) -> ServerState | None:
    """A record, or None if the file is gone or is not one that this version wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        owner, supervisor, server = (Process(**found.pop(name)) for name in ("owner", "supervisor", "server"))
        return ServerState(owner=owner, supervisor=supervisor, server=server, **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def members(server_id: str) -> Iterator[psutil.Process]:
    """Every live process of a server, found by the id in its environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(ID_VARIABLE) == server_id and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def memory(server_id: str) -> int:
    """Bytes of memory that a server's processes hold; what they share counts once for each of them."""
    held = 0
    for process in members(server_id):
        with suppress(psutil.Error):
            held += process.memory_info().rss
    return held


def reclaim() -> list[str]:
    """End the processes of servers whose supervisor is gone, and their records; "NAME (PID)" of each that was ended.

    A supervisor ends its server with its owner, whatever ends the owner: only one that was itself killed leaves any.
    """
    groups: dict[str, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if (server_id := process.environ().get(ID_VARIABLE)) and process.status() != psutil.STATUS_ZOMBIE:
                groups.setdefault(server_id, []).append(process)
    ended = []
    for server_id, processes in groups.items():
        if not any(_supervised(process) for process in processes):
            ended += [f"{process.name()} ({process.pid})" for process in processes if process.is_running()]
            kill_members(server_id)
    running()  # takes away the records of those that are gone
    return ended


def _supervised(process: psutil.Process) -> bool:
    with suppress(psutil.Error, OSError):
        return any(SUPERVISOR in parent.cmdline() for parent in process.parents())
    return False


def kill_members(server_id: str, patience_s: float = 5.0) -> None:
    """End whatever is left of a server, at once; look again until nothing is left."""
    deadline = time.monotonic() + patience_s
    while (left := list(members(server_id))) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=0.5)


def running() -> list[ServerState]:
    """The servers of this user on this machine, the newest first; what is left of dead ones is cleaned up."""
    folder = servers_folder()
    states = [state for path in folder.glob("*.json") if (state := read(path)) and state.machine == platform.node()]
    for state in states:
        if not state.alive():
            kill_members(state.id)
            state.remove()
    for log in folder.glob("*.log"):
        with suppress(FileNotFoundError):
            if not log.with_suffix(".json").exists() and time.time() - log.stat().st_mtime > KEEP_LOGS_S:
                log.unlink()
    return sorted((state for state in states if state.path.exists()), key=lambda state: -state.started)


def find(name: str | None = None) -> ServerState:
    """The running server of this model name, id or URL; without one, the newest.

    Raises `QuantlabError` when none runs, `UsageError` when none has this name.
    """
    states = running()
    if not states:
        raise QuantlabError("no server is running; start one in another terminal with: quantlab serve tiny")
    if name is None:
        return states[0]
    for state in states:
        if name in (state.model, state.id) or name.rstrip("/") in (state.url, state.url.removesuffix("/v1")):
            return state
    raise unknown("server", name, {state.model for state in states} | {state.id for state in states})
