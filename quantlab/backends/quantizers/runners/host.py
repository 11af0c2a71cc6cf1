"""The process in which one library quantizes one model: `python host.py with_LIBRARY.py`, in its environment.

    stdin     one line: the order, as JSON; then nothing. Its end means that whoever ordered is gone: so is this process
    stdout    JSON lines: {"progress": what, "share": 0..1}, and at the end {"result": ...} or {"failure": ...}
    stderr    everything that the library prints, on its stdout as well: the log

A library's file defines `quantize(order, say) -> facts`: the order is a dict, `say(what, share)` tells where the work
is, the facts are what the library really did. Progress bars that a library draws with tqdm are told the same way.

Standard library only, and run by its path: the environments of other libraries do not know quantlab.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

Say = Callable[[str, float | None], None]

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
PASS = re.compile(r"\((\d+)/(\d+)\)")  # llm-compressor counts its passes so
NEED = re.compile(r"[Tt]ried to allocate ([\d.]+ (?:bytes|[KMGT]iB))")  # torch, on a CPU and on a GPU
SIZE = {"darwin": 1}.get(sys.platform, 1024)  # ru_maxrss counts kibibytes, on macOS bytes


def main() -> None:
    """Carry out one order."""
    order = json.loads(_first_line())
    _end_with_stdin()
    os.environ.update(OFFLINE)
    os.environ.pop("TQDM_DISABLE", None)  # a bar that is switched off tells nothing; none is drawn anyway
    reply = _reply_channel()
    where = ["loading"]

    def say(what: str, share: float | None = None) -> None:
        where[0] = what
        reply(progress=what, share=share)

    try:
        quantize = runpy.run_path(sys.argv[1])["quantize"]
        began = time.perf_counter()
        follow_bars(say)
        facts = quantize(order, say)
        facts |= {"seconds": time.perf_counter() - began, **_peaks(), "versions": _versions(facts["packages"])}
        reply(result=facts)
    except BaseException as error:
        traceback.print_exc()
        reply(failure=_failure(error, where[0]))
        sys.exit(1)


def follow_bars(say: Say) -> None:
    """Tell the state of tqdm's bars instead of drawing them, where there is a tqdm."""
    if find_spec("tqdm") is None:
        return
    from tqdm.std import tqdm

    def display(bar: Any, *_: Any, **__: Any) -> None:
        passes = PASS.search(bar.desc or "")
        share = (int(passes[1]) - 1) / int(passes[2]) if passes else bar.n / bar.total if bar.total else None
        say((bar.desc or "working").rstrip(": "), share)

    tqdm.display = display


def _first_line() -> bytes:
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return bytes(line)


def _end_with_stdin() -> None:
    """As quantlab.serve.lifeline: stop when stdin ends, five seconds in good order, with all that was started here."""
    alone = os.getpgrp() == os.getpid()  # not so when somebody runs this file by hand

    def watch() -> None:
        while os.read(0, 4096):
            pass
        (os.killpg if alone else os.kill)(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        (os.killpg if alone else os.kill)(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _reply_channel() -> Callable[..., None]:
    """What was stdout, for our lines alone: from now on whatever is printed there goes to the log."""
    channel = os.dup(1)  # not inherited by what the library starts
    os.dup2(2, 1)
    lock = threading.Lock()

    def reply(**line: Any) -> None:
        with lock:
            os.write(channel, json.dumps(line).encode() + b"\n")

    return reply


def _peaks() -> dict[str, int]:
    """The most memory that this process has had, and on a GPU."""
    peaks = {"peak_bytes": _most_resident()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peaks["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    return peaks


def _most_resident() -> int:
    """On Linux ru_maxrss starts at what the process that started this one held; VmHWM is this process's own."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * SIZE


def _versions(packages: list[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _failure(error: BaseException, where: str) -> dict[str, Any]:
    """Why it ended, for a sentence: kinds are memory, disk, import, told (quantlab's own sentence), library."""
    text = (str(error).strip() or type(error).__name__).splitlines()
    need = NEED.search(str(error))
    facts: dict[str, Any] = {"where": where, "error": type(error).__name__, "what": text[0], "need": need and need[1]}
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or need:
        return facts | {"kind": "memory"}
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
        return facts | {"kind": "disk"}
    if getattr(error, "exit_code", None) in (1, 2):
        return facts | {"kind": "told", "what": str(error)}
    if isinstance(error, ImportError):
        return facts | {"kind": "import"}
    return facts | {"kind": "library"}


if __name__ == "__main__":
    main()
