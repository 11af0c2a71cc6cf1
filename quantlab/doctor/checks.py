"""One check: a name, how it went, what was found, and what to do about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Status(Enum):
    """How a check went; the values are what is printed."""

    OK = "ok"
    NOTE = "note"  # worth knowing, nothing to mend for the lessons
    WARNING = "warning"  # something will not work, or not well
    FAILURE = "failure"  # the lessons cannot run


@dataclass(frozen=True)
class Check:
    """One line of the report. `fix` is empty when there is nothing to do."""

    name: str
    status: Status
    value: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """As programs read it."""
        return {"name": self.name, "status": self.status.value, "value": self.value, "fix": self.fix}


def gib(nbytes: float) -> str:
    """Bytes as people read them.

    >>> gib(3 * 2**30)
    '3.0 GiB'
    """
    return f"{nbytes / 2**30:.1f} GiB"


def run(command: list[str], timeout_s: float) -> tuple[int | None, str, str]:
    """Exit code (None: it could not be run or did not end in time), stdout and stderr of a program."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=environment,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, "", f"did not answer within {timeout_s:.0f} s"
    except OSError as error:
        return None, "", error.strerror or str(error)
    return done.returncode, done.stdout, done.stderr


def probe(code: str, timeout_s: float = 90) -> dict[str, Any] | str:
    """Run Python code in a child process: the JSON object it prints last, or the reason why there is none.

    >>> probe("print('{}')")
    {}
    >>> probe("import os; os.abort()")
    'crashes (SIGABRT)'
    """
    ended, out, err = run([sys.executable, "-c", code], timeout_s)
    if ended == 0:
        try:
            answer = json.loads(out.splitlines()[-1])
        except (IndexError, ValueError):
            answer = None
        return answer if isinstance(answer, dict) else "gave no answer"
    if ended is not None and ended < 0:
        return f"crashes ({signal.Signals(-ended).name})"
    lines = [line for line in err.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"ended with exit code {ended}"
