"""quantlab.json: size and SHA-256 of every file of a checkpoint, and how it was made.

    {"quantlab": "0.1.0", "made": {"method": "awq", ...},
     "files": {"model.safetensors": {"bytes": 123, "sha256": "..."}, ...}}

A download that was cut short, a disk that flips a bit and a file that somebody replaced all look like weights. Only a
hash tells them from the ones that were written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantlab import __version__
from quantlab.atomic import write_text
from quantlab.errors import QuantlabError
from quantlab.models.folder import read_json

NAME = "quantlab.json"
MAX_BYTES = 10_000_000
_CHUNK = 2**20


def write_manifest(folder: Path, made: Mapping[str, Any] | None = None) -> Path:
    """Hash every file of a checkpoint; `made` is kept beside the hashes as JSON."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != NAME
    }
    content = {"quantlab": __version__, "made": dict(made or {}), "files": files}
    write_text(folder / NAME, json.dumps(content, indent=2, default=str) + "\n")
    return folder / NAME


def check_manifest(folder: Path, *, hashes: bool = True) -> dict[str, Any]:
    """What the manifest says of how the checkpoint was made, once its files are what they were.

    hashes: False compares sizes only, which reads nothing. Raises QuantlabError for the first file that is missing, of
    another size or of another content, for weights that the manifest does not know, and where there is no manifest.
    """
    path = folder / NAME
    if not path.is_file():
        raise QuantlabError(f"{folder} has no {NAME}; only checkpoints that quantlab wrote have one")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise QuantlabError(f"{path} has {size:,} bytes, more than a manifest ever takes; get the checkpoint again")
    content = read_json(path)
    files, made = content.get("files"), content.get("made")
    if not isinstance(files, dict) or not isinstance(made, dict):
        raise QuantlabError(f"{path} lists no files; get the checkpoint again")
    for name, entry in files.items():
        _check_file(folder, name, entry, hashes)
    if unknown := sorted(p.name for p in folder.glob("*.safetensors") if p.name not in files):
        raise QuantlabError(f"{folder} holds {unknown[0]}, which {NAME} does not know; remove it")
    return made


def _check_file(folder: Path, name: str, entry: Any, hashes: bool) -> None:
    path = folder / name
    if not isinstance(entry, dict) or Path(name).name != name or {"bytes", "sha256"} - entry.keys():
        raise QuantlabError(f"{folder / NAME} has an entry {name!r} that makes no sense; get the checkpoint again")
    if not path.is_file():
        raise QuantlabError(f"{path} is missing; get the checkpoint again")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise QuantlabError(f"{path} has {size:,} bytes, {NAME} says {entry['bytes']}; get it again")
    if hashes and sha256(path) != entry["sha256"]:
        raise QuantlabError(f"{path} is not the file that was written, its SHA-256 differs; get it again")


def sha256(path: Path) -> str:
    """The hash of a file, read a mebibyte at a time."""
    total = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                total.update(chunk)
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    return total.hexdigest()
