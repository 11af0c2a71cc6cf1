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

_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EROFS: "the folder is read-only; choose one that you can write to",
    errno.EACCES: "the folder is not writable for you; choose one that is",
    errno.EPERM: "the folder is not writable for you; choose one that is",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENOENT: "the folder does not exist",
}


@contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn an operating-system error into one sentence that names the target and the remedy."""
    try:
        yield
    except OSError as error:
        reason = _REMEDY.get(error.errno or 0, error.strerror or str(error))
        raise QuantlabError(f"cannot write {target}: {reason}") from error


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
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
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
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
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
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise QuantlabError(
            f"{purpose} needs {nbytes / 2**20:,.0f} MiB in {existing}, where {free / 2**20:,.0f} MiB are free; "
            "free some space or choose another folder"
        )
