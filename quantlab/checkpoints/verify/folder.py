"""A folder from front to back: files and headers first, the weights only where the headers allow it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quantlab.checkpoints.verify.hashes import bytes_to_hash, check_manifest
from quantlab.checkpoints.verify.headers import look
from quantlab.checkpoints.verify.result import Findings
from quantlab.checkpoints.verify.settings import describe
from quantlab.checkpoints.verify.tokenizer import check_tokenizer
from quantlab.checkpoints.verify.values import check_values

Progress = Callable[[str, float], None]


def check_folder(folder: Path, quick: bool, progress: Progress, findings: Findings) -> str:
    """Run every check on a model folder, and give its kind."""
    progress("headers", 0.0)
    model = look(folder, findings)
    described = describe(model, findings) if model.whole else None
    if model.names:
        check_tokenizer(model, findings)
    total = max(1, sum(entry.nbytes for entry in model.entries.values()) + bytes_to_hash(model))
    done = 0

    def report(what: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(what, min(1.0, done / total))

    if described is not None and not quick:
        check_values(model, described, report, findings)
    if model.names:
        check_manifest(model, quick, report, findings)
    return described.kind if described is not None else "unknown"
