"""Run an order in the process of its library, and put into one sentence whatever can go wrong there.

The process has its own memory: what it needs is counted, what it leaks goes with it, and a crash, `kill -9` or an
interrupt of ours ends it alone. While it runs this side only reads its lines.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from quantlab.assets import cache_folder
from quantlab.atomic import explained
from quantlab.backends.chatter import tail, telling
from quantlab.backends.children import child
from quantlab.backends.quantizers.libraries import Library
from quantlab.backends.quantizers.order import Order
from quantlab.errors import QuantlabError

Progress = Callable[[str, float | None], None]

KEEP_LOGS_S = 7 * 24 * 3600.0  # the log of a failure
TELLING = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?i)\b(?:out of memory|cannot allocate memory|No space left on device)\b",
        r"^(?:[\w.]+\.)?\w*(?:Error|Exception)\b:? ?(?P<why>.*\S.*)",  # the last line of a traceback
        r"(?i)\b(?:error|fatal|failed|abort|terminate called|segmentation)\b",
        r"\S",
    )
)


def run(library: Library, order: Order, progress: Progress) -> dict[str, Any]:
    """Carry out an order; what the library reports (runners.host). Raises QuantlabError with the reason otherwise."""
    log = _new_log(library)
    command, environment = library.command()
    last: dict[str, Any] = {}
    where = "the start"
    with (
        log.open("ab") as chatter,
        child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=chatter, env=environment,
              cwd=Path(order.out).parent) as process,  # some leave files where they run
    ):  # fmt: skip
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError):  # it died at once; the log says why
            process.stdin.write(order.to_json().encode() + b"\n")
            process.stdin.flush()
        for line in process.stdout:
            last = json.loads(line)
            if "progress" in last:
                where = last["progress"]
                progress(where, last["share"])
        if "result" in last:  # what a library still does on its way out is of no interest
            log.unlink(missing_ok=True)
            result: dict[str, Any] = last["result"]
            return result
        code = process.wait()
    raise QuantlabError(
        _told(library, order, last["failure"], log) if "failure" in last else _died(library, code, where, log)
    )


def _new_log(library: Library) -> Path:
    """A file of its own in CACHE/quantize, where failures of the last week are kept."""
    folder = cache_folder() / "quantize"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.log"):
            with suppress(FileNotFoundError):
                if time.time() - old.stat().st_mtime > KEEP_LOGS_S:
                    old.unlink()
        handle, name = tempfile.mkstemp(prefix=f"{library.name}-", suffix=".log", dir=folder)
        os.close(handle)
    return Path(name)


def _told(library: Library, order: Order, failure: dict[str, Any], log: Path) -> str:
    """The process said itself why it stopped."""
    kind, title, where = failure["kind"], library.title, failure["where"]
    if kind == "told":
        log.unlink(missing_ok=True)
        return str(failure["what"])
    if kind == "memory":
        need = f" (it asked for {failure['need']} more)" if failure["need"] else ""
        return f"{title} ran out of memory at {where}{need}; {_lower(order)} (log: {log})"
    if kind == "disk":
        return f"the disk was full at {where}; free some space or choose another folder (log: {log})"
    if kind == "import":
        again = (
            f"quantlab env remove {library.environment}, then quantlab env create {library.environment}"
            if library.environment
            else f"pip install --force-reinstall '{library.install}'"
        )
        return f"{title} is installed but cannot be loaded ({failure['what']}); install it again: {again} (log: {log})"
    return f"{title} failed at {where}: {failure['error']}: {failure['what'].rstrip('.')} (log: {log})"


def _died(library: Library, code: int, where: str, log: Path) -> str:
    """The process ended without a word."""
    why = telling(tail(log), TELLING)
    last = f"the last line of its log: {why}" if why else "its log is empty"
    if code == -signal.SIGKILL:
        ended = "was killed (SIGKILL), as the system does when memory runs out,"
    elif code < 0:
        ended = f"crashed ({signal.Signals(-code).name})"
    else:
        ended = f"ended with exit code {code}"
    return f"the process of {library.title} {ended} at {where}; {last} (log: {log})"


def _lower(order: Order) -> str:
    if not order.windows:
        return "close other programs, or take a smaller model"
    longest = max(map(len, order.windows))
    return (
        f"calibrate on fewer windows than these {len(order.windows)} of {longest} tokens (--samples, --window), close "
        "other programs, or take a smaller model"
    )
