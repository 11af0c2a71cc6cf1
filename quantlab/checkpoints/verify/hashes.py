"""quantlab.json against the files: sizes, and in a full run every byte by its SHA-256.

Only checkpoints that quantlab wrote have the manifest (quantlab.checkpoints.manifest). A file that was changed since,
by a disk, a download or a person, looks like any other; its hash does not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantlab.checkpoints.manifest import MAX_BYTES, NAME, sha256
from quantlab.checkpoints.verify.headers import Model, small_json
from quantlab.checkpoints.verify.result import Findings
from quantlab.errors import QuantlabError


def check_manifest(model: Model, quick: bool, report: Callable[[str, int], None], findings: Findings) -> None:
    """Every file that the manifest lists is there, as large and as it was written; no other weights are beside them."""
    if NAME not in model.names:
        findings.unsure("manifest", f"there is no {NAME}, so a changed byte cannot be noticed; quantlab writes one")
        return
    try:
        files = small_json(model.folder / NAME, MAX_BYTES).get("files")
        if not isinstance(files, dict):
            raise QuantlabError(f"{model.folder / NAME} lists no files; get the checkpoint again")
        for name, entry in files.items():
            _check_file(model.folder, str(name), entry, quick, findings)
            if not quick and (model.folder / name).is_file():
                report(f"hash of {name}", (model.folder / name).stat().st_size)
    except QuantlabError as error:
        findings.fault("manifest", str(error))
        return
    for name in sorted(name for name in model.names if name.endswith(".safetensors") and name not in files):
        findings.fault("manifest", f"{model.folder / name} is not in {NAME}; remove it, it was not written with it")
    findings.well("manifest", f"{len(files)} files are {'as large as' if quick else 'bit for bit'} {_as(quick)}")


def _as(quick: bool) -> str:
    return f"{NAME} says" if quick else f"those of {NAME}"


def bytes_to_hash(model: Model) -> int:
    """How many bytes a full run hashes."""
    if NAME not in model.names:
        return 0
    return sum(path.stat().st_size for path in model.folder.iterdir() if path.is_file() and path.name != NAME)


def _check_file(folder: Path, name: str, entry: Any, quick: bool, findings: Findings) -> None:
    path = folder / name
    if Path(name).name != name or not isinstance(entry, dict) or {"bytes", "sha256"} - entry.keys():
        raise QuantlabError(f"{folder / NAME} has an entry {name[:60]!r} that makes no sense; get the checkpoint again")
    if not path.is_file():
        findings.fault("manifest", f"{path} is missing, {NAME} lists it; get the checkpoint again", "missing")
    elif (size := path.stat().st_size) != entry["bytes"]:
        what = f"{path} has {size:,} bytes, when it was written it had {entry['bytes']}; get it again"
        findings.fault("manifest", what)
    elif not quick and sha256(path) != entry["sha256"]:
        findings.fault("manifest", f"{path} is not the file that was written, its SHA-256 differs; get it again")
