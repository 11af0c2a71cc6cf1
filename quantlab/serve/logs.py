"""The line of a server's log that says why it stopped.

A log ends in a traceback, and the reason stands somewhere above it. The patterns go from the most telling to the
least; the last line that matches the first pattern with a match is the answer.

vLLM writes the name of the process, the time and the place before each line, and has a chain of processes: the last
of them to fail only says that another has, and to look above. Such lines are passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

from quantlab.backends.chatter import tail, telling

BEFORE = re.compile(r"^\([\w-]+ pid=\d+\) (?:[A-Z]+ [\d-]+ [\d:.]+ \[[\w.]+:\d+\] ?)?")  # vLLM, before every line
LOOK_ABOVE = re.compile(r"See (?:stack trace|root cause) \(?above|EngineCore encountered")
TELLING = tuple(
    re.compile(pattern)
    for pattern in (
        r"error loading model: (?P<why>.+)",  # llama.cpp, why a file cannot be used
        r"(?P<why>failed to allocate (?:\w+ )?buffer of size \d+)",  # llama.cpp, before it only says that it failed
        r"Worker failed with error '(?P<why>.+)', please check the stack trace",  # vLLM, from the process that computes
        r"(?P<why>Requested tokens \(\d+\) exceed context window of \d+)",  # llama-cpp-python
        r"(?P<why>\[Errno \d+\].*address already in use.*)",  # uvicorn
        r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b:? ?(?P<why>[^\s:].*)",  # the last line of a traceback
        r"(?i)\b(?:error|failed|cannot|unable|invalid|out of memory|not found)\b",
        r"\S",
    )
)


def size(log: Path) -> int:
    """Bytes of a log so far; 0 if there is no log."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def why(lines: list[str]) -> str:
    """The most telling line, or an empty text.

    >>> why(["load: error loading model: missing tensor", "Traceback ...", "ValueError: Failed to load model"])
    'missing tensor'
    """
    return telling([bare for line in lines if not LOOK_ABOVE.search(bare := BEFORE.sub("", line))], TELLING)


__all__ = ["size", "tail", "why"]
