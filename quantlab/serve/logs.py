"""The line of a server's log that says why it stopped.

A log ends in a traceback, and the reason stands somewhere above it. The patterns go from the most telling to the
least; the last line that matches the first pattern with a match is the answer.
"""

from __future__ import annotations

import re
from pathlib import Path

TELLING = tuple(
    re.compile(pattern)
    for pattern in (
        r"error loading model: (?P<why>.+)",  # llama.cpp, why a file cannot be used
        r"(?P<why>Requested tokens \(\d+\) exceed context window of \d+)",  # llama-cpp-python
        r"(?P<why>\[Errno \d+\].*address already in use.*)",  # uvicorn
        r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b:? ?(?P<why>.*\S.*)",  # the last line of a traceback
        r"(?i)\b(?:error|failed|cannot|unable|invalid|out of memory|not found)\b",
        r"\S",
    )
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TAIL_BYTES = 64 * 1024


def size(log: Path) -> int:
    """Bytes of a log so far; 0 if there is no log."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def tail(log: Path, since: int = 0) -> list[str]:
    """The last lines of a log after byte `since`, without colours; none if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(since, size(log) - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [COLOUR.sub("", line).strip() for line in text.splitlines()]


def why(lines: list[str]) -> str:
    """The most telling line, or an empty text.

    >>> why(["load: error loading model: missing tensor", "Traceback ...", "ValueError: Failed to load model"])
    'missing tensor'
    """
    for pattern in TELLING:
        for line in reversed(lines):
            if found := pattern.search(line):
                return (found.groupdict().get("why") or line).strip().rstrip(".")
    return ""
