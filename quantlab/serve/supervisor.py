"""The process between a server and its owner, so that the server never outlives the one who started it.

A plain child of a notebook's kernel dies of the interrupt button, for the signal goes to the kernel's whole process
group; in a session of its own it survives that, but also outlives a restart. So: the supervisor has a session of its
own, and watches its owner in two ways, both of which work on Linux and macOS.

- stdin is a pipe whose other end only the owner holds. When the owner is gone, for whatever reason, kill -9 included,
  the system closes that end: end of file.
- a process that the owner forked may hold that end open, so the owner's number and start time are looked at as well.

Then, or when told to stop, or when the server ends by itself: end the server, politely first, then whatever still
carries its id; remove its record; go. If the supervisor itself is killed, the server's stdin ends in turn.

    stdin:   one line of JSON (what to run), then "stop" or the end
    stdout:  one line of JSON: the server's process, or why it could not be started
    stderr:  the log, shared with the server
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.serve.lifeline import first_line
from quantlab.serve.state import ID_VARIABLE, Process, ServerState, kill_members

LOOK_EVERY_S = 1.0
STOP = b"stop"


def start_server(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the engine in a session of its own, its first line on stdin; stdin stays open as its lifeline."""
    environment = {**os.environ, **job["environment"], ID_VARIABLE: job["state"]["id"]}
    server = subprocess.Popen(
        job["argv"],
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        stderr=sys.stderr,
        env=environment,
        pass_fds=(job["socket"],),
        start_new_session=True,
    )
    os.close(job["socket"])
    assert server.stdin
    with suppress(BrokenPipeError):  # it died at once; the log says why
        server.stdin.write(job["first_line"].encode() + b"\n")
        server.stdin.flush()
    return server


def end_server(server: subprocess.Popen[bytes], server_id: str, grace_s: float) -> None:
    """Ask the server to end, wait, then end all that is left of it."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(grace_s)
    kill_members(server_id)
    server.wait()


class Watch:
    """Sleeps until the owner speaks or goes, the server ends, or a signal asks us to stop."""

    def __init__(self, owner: Process) -> None:
        self.owner = owner
        self.asked_to_stop = False
        self.wakeup, signals = os.pipe()
        os.set_blocking(signals, False)
        signal.set_wakeup_fd(signals)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake up

    def _stop(self, *_: object) -> None:
        self.asked_to_stop = True

    def until_over(self, server: subprocess.Popen[bytes]) -> None:
        """Return when the server has ended or shall end."""
        while server.poll() is None and not self.asked_to_stop and self.owner.alive():
            readable, _, _ = select.select([0, self.wakeup], [], [], LOOK_EVERY_S)
            if self.wakeup in readable:
                os.read(self.wakeup, 4096)
            if 0 in readable and os.read(0, 4096) in (b"", STOP):
                return


def report(**facts: Any) -> None:
    """One line to the owner, who may be gone."""
    with suppress(BrokenPipeError):
        os.write(1, json.dumps(facts).encode() + b"\n")


def main() -> None:
    """Run one server from its start to its end."""
    if not (line := first_line()):
        return  # the owner went before it said what to run
    job = json.loads(line)
    watch = Watch(Process(**job["owner"]))
    try:
        server = start_server(job)
    except OSError as error:
        report(error=f"{job['argv'][0]} cannot be started ({error.strerror})")
        return
    ours, its = Process.of(os.getpid()), Process.of(server.pid)
    state = ServerState(**job["state"], owner=watch.owner, supervisor=ours, server=its)
    try:
        state.write()
        report(pid=server.pid)
        watch.until_over(server)
        by_itself = server.poll() is not None
    except QuantlabError as error:
        report(error=str(error))
        by_itself = True
    finally:
        end_server(server, state.id, job["grace_s"])
        state.remove()
    if not by_itself:
        Path(state.log).unlink(missing_ok=True)  # the log of a server that failed is kept


if __name__ == "__main__":
    main()
