"""Verify a checkpoint before any server loads it: a folder, or a GGUF file, whoever made it.

    headers    files, index, headers          is it all there, whole, and what it says it is?
    settings   config.json and the headers    bits, groups, shapes, types, what is left out (left_out)
    scales     positive and finite
    packing    codes                          filled, around their zero points, following their scales
    neighbours, orders                        nibbles in the order of the kind: statistics, with "cannot tell"
    values     everything not quantized       finite
    tokenizer  ids, special tokens, chat template
    hashes     the manifest that quantlab writes
    gguf       the same for one file

It works from the cheap to the dear. Headers are read first, bounded: nothing in them is believed before it is compared
with the size of the file. `quick` ends there. Then the tensors are read one by one. Nothing is ever unpickled or run.

>>> from quantlab.models.bundled import tiny_folder
>>> verify(tiny_folder(), quick=True).ok
True
"""

from __future__ import annotations

from pathlib import Path

from quantlab.checkpoints.verify.folder import Progress, check_folder
from quantlab.checkpoints.verify.gguf import check_gguf
from quantlab.checkpoints.verify.result import Check, Findings, Verified
from quantlab.errors import QuantlabError

__all__ = ["Check", "Verified", "verify"]


def verify(path: Path, *, quick: bool = False, progress: Progress = lambda what, share: None) -> Verified:
    """Check a model folder or a GGUF file, and say everything that is wrong with it.

    quick: headers, config and tokenizer only. progress: told what is being read, and which share is done. A fault is a
    sentence in the result, never an exception; QuantlabError means that there is nothing to check: no such path, or one
    that cannot be read.

    >>> from quantlab.models.bundled import tiny_folder
    >>> done = verify(tiny_folder(), quick=True)
    >>> done.kind, done.fault
    ('plain', None)
    """
    if not path.exists():
        raise QuantlabError(f"there is no {path}; check the path")
    findings = Findings()
    path = _only_gguf(path)
    if path.is_dir():
        kind = check_folder(path, quick, progress, findings)
    else:
        kind = check_gguf(path, quick, progress, findings)
    return Verified(path, kind, quick, findings.checks())


def _only_gguf(path: Path) -> Path:
    """The GGUF file of a folder that holds one, and no other weights."""
    if not path.is_dir():
        return path
    try:
        files = [file for file in path.iterdir() if file.suffix in (".gguf", ".safetensors")]
    except OSError as error:
        raise QuantlabError(f"cannot read the folder {path}: {error.strerror}; check its permissions") from error
    return files[0] if len(files) == 1 and files[0].suffix == ".gguf" else path
