"""Tensors that are not quantized, a piece at a time, straight from the file: never more than a few megabytes at once.

Where a tensor lies is known from the header, which was checked against the size of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from quantlab.errors import QuantlabError
from quantlab.models.weights_file import Entry

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
PIECE = 2**24  # bytes
_STRETCHES = 8


def pieces(path: Path, entry: Entry) -> Iterator[Tensor]:
    """The numbers of a tensor in order, flat; nothing for types that hold no fractions.

    Raises QuantlabError where the file became shorter or cannot be read.
    """
    if entry.dtype in TYPES:
        for start in range(0, entry.nbytes, PIECE):
            yield _read(path, entry, start, min(PIECE, entry.nbytes - start))


def some_rows(path: Path, entry: Entry, count: int) -> Tensor | None:
    """About `count` rows of a matrix [rows, k], from all over it, float32; None for a type without fractions."""
    rows, k = entry.shape
    if entry.dtype not in TYPES or not entry.nbytes:
        return None
    row = entry.nbytes // rows
    each = max(1, min(rows, count) // _STRETCHES)
    starts = [int(start) for start in torch.linspace(0, rows - each, _STRETCHES)]
    stretches = [_read(path, entry, start * row, each * row) for start in dict.fromkeys(starts)]
    return torch.cat(stretches).reshape(-1, k).float()


def _read(path: Path, entry: Entry, start: int, nbytes: int) -> Tensor:
    try:
        with path.open("rb") as file:
            head = 8 + int.from_bytes(file.read(8), "little")
            file.seek(head + entry.begin + start)
            raw = bytearray(file.read(nbytes))
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; check the disk") from error
    if len(raw) < nbytes:
        raise QuantlabError(f"{path} became shorter while it was read; get it again")
    return torch.frombuffer(raw, dtype=TYPES[entry.dtype])
