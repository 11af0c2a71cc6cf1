"""The header of a safetensors file, read and checked before anything is loaded. Standard library only.

    8 bytes    length of the header N, little-endian
    N bytes    JSON: {"name": {"dtype": "BF16", "shape": [512, 512], "data_offsets": [begin, end]}, ...}
    the rest   the tensors' bytes, end to end, with no gap and no overlap

A pickle checkpoint can run any code when it is opened; this format cannot. What can still be wrong is the file: cut
short, overwritten, or crafted. Each of these becomes one sentence here instead of a crash later.

Source: github.com/huggingface/safetensors, README, "Format" (the header is at most 100 MB).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError

MAX_HEADER = 100_000_000  # bytes, the limit that the format sets
MAX_DIMENSIONS = 64  # of a tensor, torch's own limit; the product of a million sizes takes hours
BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: `nbytes` bytes that start `begin` bytes after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes in the file."""
        return self.end - self.begin


def read_header(path: Path) -> dict[str, Entry]:
    """Tensor name -> where and what it is; raises QuantlabError when the file is not whole and well-formed."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(9)
            length = int.from_bytes(start[:8], "little")
            if len(start) < 9 or length > MAX_HEADER or start[8:] != b"{":
                raise _damaged(path, "does not start as a safetensors file does", size)
            if 8 + length > size:
                raise _damaged(path, f"is cut short: its header takes {8 + length:,} bytes, it has {size:,}", size)
            header = _parse(path, b"{" + file.read(length - 1), size)
    except OSError as error:
        raise QuantlabError(
            f"cannot read {path}: {error.strerror}; check that the file is there and readable"
        ) from error
    entries = [_entry(path, name, value, size) for name, value in header.items() if name != "__metadata__"]
    _check_offsets(path, entries, size, size - 8 - length)
    return {entry.name: entry for entry in entries}


def _damaged(path: Path, what: str, size: int) -> QuantlabError:
    pointer = " (a Git LFS pointer: run `git lfs pull`)" if size < 1024 and _is_pointer(path) else ""
    return QuantlabError(f"{path} {what}{pointer}; download or copy it again")


def _is_pointer(path: Path) -> bool:
    return path.read_bytes().startswith(b"version https://git-lfs")


def _parse(path: Path, raw: bytes, size: int) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "has a damaged header (not valid JSON)", size) from error
    assert isinstance(header, dict)  # it starts with a brace
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice")
    return table


def _entry(path: Path, name: str, value: Any, size: int) -> Entry:
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [begin, end, *shape]
        if len(shape) > MAX_DIMENSIONS or not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ValueError("not a size")
        bits = BITS[dtype] * math.prod(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"has a damaged header (its entry for {name!r} makes no sense)", size) from error
    if bits != 8 * (end - begin):
        what = f"has a damaged header ({name!r}: {end - begin} bytes are not {dtype} of shape {shape})"
        raise _damaged(path, what, size)
    return Entry(name, dtype, tuple(shape), begin, end)


def _check_offsets(path: Path, entries: list[Entry], size: int, room: int) -> None:
    """The tensors lie end to end and fill the file exactly."""
    at = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != at:
            how = "overlaps the one before it" if entry.begin < at else "leaves a gap before it"
            raise _damaged(path, f"has a damaged header ({entry.name!r} {how})", size)
        at = entry.end
    if at > room:
        raise _damaged(path, f"is cut short: {at - room:,} of {at:,} bytes of weights are missing", size)
    if at < room:
        raise _damaged(path, f"has {room - at:,} bytes too many at its end", size)
