"""Write files and folders whole or not at all: to a temporary name beside the target, fsync, rename."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantlab.errors import QuantlabError

_PART = ".part"  # ends the name of everything that is not finished yet

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EFBIG: "a file may not grow that large here (`ulimit -f`); raise the limit or choose another folder",
    errno.EROFS: "the folder is read-only; choose one that you can write to",
    errno.EACCES: "permission denied; choose a place that you may use",
    errno.EPERM: "permission denied; choose a place that you may use",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EEXIST: "a file of that name is in the way; choose another path",
    errno.EISDIR: "it is a folder; name a file in it instead",
    errno.ENOENT: "it does not exist; check the path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EIO: "the disk reports an error; check it, or choose another one",
}


def reason(error: OSError) -> str:
    """What went wrong and how to mend it, without the path.

    >>> reason(OSError(errno.ENOSPC, "No space left on device"))
    'the disk is full; free some space or choose another folder'
    """
    return _REMEDY.get(error.errno or 0, error.strerror or str(error))


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn an operating-system error into one sentence that names the file at fault and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a library's own error in an OSError's clothes: not about this file
            raise
        raise QuantlabError(f"cannot {_deed(error, target)}: {reason(error)}") from error


def _deed(error: OSError, target: Path) -> str:
    """`write TARGET`, unless the error is about another file that was being read on the way."""
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    ours = not named or target.is_relative_to(named) or any(part.endswith(_PART) for part in Path(named).parts)
    return f"write {target}" if ours else f"use {named}"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that becomes `target` when the block ends without an error."""
    with explained(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=_PART, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _sync(temporary)
            temporary.chmod(0o644)
            os.replace(temporary, target)
            _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target`; an existing target is an error."""
    if target.exists():
        raise QuantlabError(f"{target} exists already; choose another name or remove it first")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PART, dir=target.parent))
        try:
            yield temporary
            for path in temporary.rglob("*"):
                _sync(path)
            temporary.chmod(0o755)
            os.replace(temporary, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with new_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_space(folder: Path, nbytes: int, purpose: str) -> None:
    """Fail early when the disk that holds `folder` has less than `nbytes` free."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise QuantlabError(
            f"{purpose} needs {nbytes / 2**20:,.0f} MiB in {existing}, where {free / 2**20:,.0f} MiB are free; "
            "free some space or choose another folder"
        )
