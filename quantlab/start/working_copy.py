"""A working copy of the lessons and labs that is the learner's own.

`.quantlab/manifest.json` remembers the hash of every file as it was laid out. Laying out again then compares three
hashes: the file as it is now (yours), as it was laid out (base), and as it comes with this quantlab (ours):

    missing                             written
    yours == ours                       nothing to do
    yours == base                       untouched: updated
    yours != base, base == ours         edited by you, unchanged by us: kept
    yours != base, base != ours         edited by both: yours is kept, ours goes beside it as NAME.new.ipynb

To get a fresh copy of a notebook, delete it and run `quantlab start` again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from quantlab.atomic import explained, new_file, require_space, write_text
from quantlab.errors import QuantlabError

MANIFEST = ".quantlab/manifest.json"
_SKIP = {"text", "__pycache__", ".ipynb_checkpoints"}  # twins for review, and what Jupyter and Python leave behind
Hashes = dict[str, str]  # path inside the working copy, with "/" -> SHA-256


class Change(Enum):
    """What was done to one file; the values are what is printed."""

    WRITTEN = "written"
    UPDATED = "updated"
    KEPT = "yours, kept"
    BESIDE = "yours, kept; the new version is beside it"
    SAME = "up to date"


@dataclass(frozen=True)
class Laid:
    """One file of the working copy and what was done to it. `new` is the name of the version beside it, if any."""

    path: str
    change: Change
    new: str = ""


def lay_out(sources: Mapping[str, Path], folder: Path) -> list[Laid]:
    """Copy `sources` (name in the working copy -> folder) into `folder`; what a learner edited stays as it is."""
    files = dict(sorted(_files(sources).items()))
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).parent.mkdir(exist_ok=True)
    base = read_manifest(folder)
    ours = {path: _hash(source) for path, source in files.items()}
    require_space(folder, 2 * sum(source.stat().st_size for source in files.values()), "the working copy")
    laid = []
    for path, source in files.items():
        step = _lay(folder, path, source, ours[path], base)
        laid.append(step)
        base[path] = ours[path]
        if step.new:
            base[step.new] = ours[path]
    write_text(folder / MANIFEST, json.dumps({"files": dict(sorted(base.items()))}, indent=1) + "\n")
    return laid


def read_manifest(folder: Path) -> Hashes:
    """Hashes of what was laid out in `folder` before; empty for a new folder."""
    path = folder / MANIFEST
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))["files"]
        if not all(isinstance(value, str) for value in hashes.values()):
            raise TypeError("not hashes")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; choose another folder") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QuantlabError(
            f"{path} is damaged; delete it and run this again: every file that differs from ours is then kept as yours"
        ) from error
    return dict(hashes)


def _files(sources: Mapping[str, Path]) -> dict[str, Path]:
    """Path in the working copy -> file to copy there."""
    found: dict[str, Path] = {}
    for name, source in sources.items():
        for path in source.rglob("*"):
            inside = path.relative_to(source)
            if path.is_file() and not _SKIP & set(inside.parts) and not any(p.startswith(".") for p in inside.parts):
                found[str(PurePosixPath(name) / inside.as_posix())] = path
    return found


def _lay(folder: Path, path: str, source: Path, ours: str, base: Hashes) -> Laid:
    """Bring one file up to date by the table above."""
    target = folder / path
    if not target.exists():
        _copy(source, target)
        return Laid(path, Change.WRITTEN)
    yours = _hash(target)
    if yours == ours:
        return Laid(path, Change.SAME)
    if yours == base.get(path):
        _copy(source, target)
        return Laid(path, Change.UPDATED)
    if ours == base.get(path):
        return Laid(path, Change.KEPT)
    new = _name_beside(folder, path, ours, base)
    _copy(source, folder / new)
    return Laid(path, Change.BESIDE, new)


def _name_beside(folder: Path, path: str, ours: str, base: Hashes) -> str:
    """NAME.new.ipynb, or NAME.new2.ipynb and so on where the learner edited the one before."""
    pure, number = PurePosixPath(path), 1
    while True:
        new = str(pure.with_name(f"{pure.stem}.new{number if number > 1 else ''}{pure.suffix}"))
        if not (folder / new).exists() or _hash(folder / new) in (base.get(new), ours):
            return new
        number += 1


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; move it away or choose another folder") from error


def _copy(source: Path, target: Path) -> None:
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with new_file(target) as temporary:
        shutil.copyfile(source, temporary)
