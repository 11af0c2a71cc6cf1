"""What a learner has done, in `.quantlab/progress.json` beside the lessons. It is never sent anywhere.

    {"version": 1,
     "exercises":   {id: {"outcome", "attempts", "hints", "solution_seen", "passed_at"}},
     "predictions": {id: {"question", "unit", "predicted", "locked_at", "after_reveal", "measured", "revealed_at"}}}

`QUANTLAB_STATE` redirects it to another folder, or keeps it in this session only (`QUANTLAB_STATE=off`, as tests do).
A file that cannot be written never stops a lesson: the facts live on in the session, and a note says why.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quantlab import atomic
from quantlab.errors import QuantlabError

Entry = dict[str, Any]
Record = dict[str, dict[str, Entry]]  # section -> id -> entry

_OFF = {"off", "none", "0"}
_session: Record = {}  # what could not, or should not, be written to a file


def working_copy() -> Path:
    """The folder that holds `lessons`, seen from the current one; without any, the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "lessons").is_dir()), here)


def location() -> Path | None:
    """The progress file, or None when nothing is kept beyond this session."""
    state = os.environ.get("QUANTLAB_STATE", "").strip()
    if state.lower() in _OFF:
        return None
    folder = Path(state).expanduser() if state else working_copy() / ".quantlab"
    return folder / "progress.json"


def now() -> str:
    """The time in UTC, to the second, as it is recorded."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def entry(section: str, key: str) -> Entry:
    """What is known about one exercise or prediction; empty when nothing is."""
    path = location()
    kept = _load(path).get(section, {}).get(key, {}) if path else {}
    return {**kept, **_session.get(section, {}).get(key, {})}


def update(section: str, key: str, change: Callable[[Entry], None]) -> str:
    """Apply `change` to an entry, whole or not at all; returns a note when it could not be written, else ''."""
    path = location()
    note = ""
    if path is not None:
        try:
            with _alone(path):
                record = _load(path)
                change(record.setdefault(section, {}).setdefault(key, {}))
                atomic.write_text(path, json.dumps({"version": 1, **record}, indent=1, ensure_ascii=False) + "\n")
            return ""
        except QuantlabError as error:
            note = f"Kept for this session only: {error}."
            _session.setdefault(section, {}).setdefault(key, entry(section, key))
    change(_session.setdefault(section, {}).setdefault(key, {}))
    return note


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two notebooks may write at the same time: one waits for the other."""
    with atomic.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _load(path: Path) -> Record:
    """The record on file; a damaged file is set aside as progress.damaged.json, not overwritten."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(record, dict) and all(_is_section(record.get(s, {})) for s in ("exercises", "predictions"))):
            raise ValueError("not a progress file")
    except OSError:
        return {}
    except ValueError:
        with suppress(OSError):  # a folder that refuses this refuses the next write too, which says so
            os.replace(path, path.with_name("progress.damaged.json"))
        return {}
    return {section: entries for section, entries in record.items() if section != "version"}


def _is_section(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(entry, dict) for entry in value.values())
