"""What a program printed: the end of its log, and the line of it that tells the most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TAIL_BYTES = 64 * 1024


def tail(log: Path, since: int = 0) -> list[str]:
    """The last lines of a log after byte `since`, without colours; none if there is no log.

    A progress bar that is redrawn on one line is its last state.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(since, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [COLOUR.sub("", line.rpartition("\r")[2]).strip() for line in text.split("\n")]


def telling(lines: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> str:
    """The last line that matches the first pattern with a match: its group `why`, else the whole line; or nothing.

    >>> telling(["Error: no space", "goodbye"], [re.compile("Error: (?P<why>.*)"), re.compile(".")])
    'no space'
    """
    for pattern in patterns:
        for line in reversed(lines):
            if found := pattern.search(line):
                return (found.groupdict().get("why") or line).strip().rstrip(".")
    return ""
