"""What goes wrong because of what a user gave us: one clear sentence, and the exit code of the command line.

The message says what, where, and how to mend it. The command line prints it without a traceback; in a notebook it is
an ordinary `ValueError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QuantlabError(ValueError):
    """The work could not be done: a missing file, a full disk, no network. Exit code 1."""

    exit_code = 1


class UsageError(QuantlabError):
    """The request itself is wrong: an unknown name, a value out of range. Exit code 2."""

    exit_code = 2


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does.

    >>> print(unknown("format", "q4km", ["q4_k_m", "nf4"]))
    unknown format 'q4km'; did you mean 'q4_k_m'? Known: nf4, q4_k_m
    """
    names = sorted(known)
    lowered = {known_name.lower(): known_name for known_name in names}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[near[0]]!r}?" if near else "."
    return UsageError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}")
