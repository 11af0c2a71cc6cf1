"""The head of a GGUF file, everything before the data: metadata and where each tensor lies. No torch, so it is instant.

    GGUF | version u32 = 3 | tensors u64 | pairs u64
    pairs      key: text | type u32 | value                            (quantlab.formats.gguf_values)
    tensors    name: text | dimensions u32 | each u64, fastest first | type u32 | offset u64
    padding to a multiple of the alignment (general.alignment, else 32)
    data       each tensor at its offset from here, padded to the alignment

Nothing in the head is believed before it is checked against the size of the file, so a cut or crafted file raises
QuantlabError at once: llama.cpp's issue 27188 reports a file of 43 bytes on which the gguf package's reader hangs.
Servers, converters and checks all read files through `read_head`.

Reference: ggml's docs/gguf.md (versions 2 and 3). Left out: version 1, big-endian files, files in several pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from quantlab.errors import QuantlabError
from quantlab.formats.gguf_values import Source, Value, text_bytes

ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
MOST_DIMENSIONS = 4
LONGEST_NAME = 63  # bytes of a tensor's name; llama.cpp refuses more


@dataclass(frozen=True)
class TensorType:
    """A type of tensor: its number in the file; `block` weights take `nbytes` bytes."""

    number: int
    block: int
    nbytes: int

    def bytes_for(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor whose rows divide into blocks.

        >>> TYPES["q4_k"].bytes_for((2, 256))
        288
        """
        return math.prod(shape) // self.block * self.nbytes


TYPES = {
    "f32": TensorType(0, 1, 4), "f16": TensorType(1, 1, 2), "bf16": TensorType(30, 1, 2), "f64": TensorType(28, 1, 8),
    "i8": TensorType(24, 1, 1), "i16": TensorType(25, 1, 2), "i32": TensorType(26, 1, 4), "i64": TensorType(27, 1, 8),
    "q4_0": TensorType(2, 32, 18), "q4_1": TensorType(3, 32, 20), "q5_0": TensorType(6, 32, 22),
    "q5_1": TensorType(7, 32, 24), "q8_0": TensorType(8, 32, 34), "q8_1": TensorType(9, 32, 36),
    "q2_k": TensorType(10, 256, 84), "q3_k": TensorType(11, 256, 110), "q4_k": TensorType(12, 256, 144),
    "q5_k": TensorType(13, 256, 176), "q6_k": TensorType(14, 256, 210), "q8_k": TensorType(15, 256, 292),
    "iq2_xxs": TensorType(16, 256, 66), "iq2_xs": TensorType(17, 256, 74), "iq3_xxs": TensorType(18, 256, 98),
    "iq1_s": TensorType(19, 256, 50), "iq4_nl": TensorType(20, 32, 18), "iq3_s": TensorType(21, 256, 110),
    "iq2_s": TensorType(22, 256, 82), "iq4_xs": TensorType(23, 256, 136), "iq1_m": TensorType(29, 256, 56),
    "tq1_0": TensorType(34, 256, 54), "tq2_0": TensorType(35, 256, 66), "mxfp4": TensorType(39, 32, 17),
    "nvfp4": TensorType(40, 64, 36), "q1_0": TensorType(41, 128, 18), "q2_0": TensorType(42, 64, 18),
}  # fmt: skip
_NAMES = {entry.number: name for name, entry in TYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: its type, its shape as torch has it (slowest first), its offset in the data, its bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def to_bytes(self) -> bytes:
        """Its line in the head."""
        numbers = [(len(self.shape), 4), *((size, 8) for size in reversed(self.shape))]
        numbers += [(TYPES[self.type].number, 4), (self.offset, 8)]
        return text_bytes(self.name) + b"".join(number.to_bytes(size, "little") for number, size in numbers)


@dataclass(frozen=True)
class GgufHead:
    """What a file says about itself; the data begin at `data_start`."""

    path: Path
    values: dict[str, Value]
    tensors: dict[str, TensorInfo]
    data_start: int

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata as Python has it."""
        return {key: value.plain for key, value in self.values.items()}


def read_head(path: Path) -> GgufHead:
    """Read the head of a GGUF file; raises `QuantlabError` for one that is missing, cut off, crafted or no GGUF."""
    if path.exists() and not path.is_file():
        raise QuantlabError(f"{path} is no file; name a GGUF file")
    try:
        with path.open("rb") as file:
            return _head(path, file, path.stat().st_size)
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; check the path") from error
    except QuantlabError as error:
        raise QuantlabError(f"{path} is not a usable GGUF file: {error}; download or convert it again") from error


def _head(path: Path, file: BinaryIO, size: int) -> GgufHead:
    source = Source(file, size)
    if source.take(4) != b"GGUF":
        raise QuantlabError("it does not begin with GGUF")
    if (version := source.u32()) not in (2, 3):
        raise QuantlabError(f"its version is {version}, not 2 or 3")
    n_tensors, n_values = source.u64(), source.u64()
    values = {}
    for _ in range(source.spend(n_values, 13)):  # a length, a type and a byte at least
        key = source.text()
        if key in values:
            raise QuantlabError(f"it has the key {key!r} twice")
        values[key] = source.value(source.kind())
    alignment = alignment_of(values)
    tensors = {}
    for _ in range(source.spend(n_tensors, 32)):  # two lengths, a dimension and a type at least
        info = _tensor_info(source, alignment)
        if info.name in tensors:
            raise QuantlabError(f"it has the tensor {info.name!r} twice")
        tensors[info.name] = info
    start = padded(size - source.left, alignment)
    for info in tensors.values():
        if start + info.offset + info.nbytes > size:
            raise QuantlabError(f"{info.name!r} reaches beyond its end")
    return GgufHead(path, values, tensors, start)


def alignment_of(values: Mapping[str, Value]) -> int:
    """What offsets are multiples of; raises QuantlabError for one that makes no sense."""
    alignment = values[ALIGNMENT].value if ALIGNMENT in values else DEFAULT_ALIGNMENT
    if not isinstance(alignment, int) or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise QuantlabError(f"its alignment is {str(alignment)[:40]}, not a power of two from 8 to 2^20")
    return alignment


def _tensor_info(source: Source, alignment: int) -> TensorInfo:
    name, dimensions = source.text(), source.u32()
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise QuantlabError(f"{name!r} has {dimensions} dimensions, not 1 to {MOST_DIMENSIONS}")
    shape = tuple(source.u64() for _ in range(dimensions))[::-1]
    number, offset = source.u32(), source.u64()
    if number not in _NAMES:
        raise QuantlabError(f"{name!r} has the unknown type {number}")
    entry = TYPES[_NAMES[number]]
    if 0 in shape or shape[-1] % entry.block:
        raise QuantlabError(f"{name!r} of shape {list(shape)} is not made of blocks of {entry.block}")
    if offset % alignment:
        raise QuantlabError(f"{name!r} lies at {offset}, not a multiple of the alignment {alignment}")
    return TensorInfo(name, _NAMES[number], shape, offset, entry.bytes_for(shape))


def padded(nbytes: int, alignment: int) -> int:
    """The next multiple of the alignment.

    >>> padded(33, 32)
    64
    """
    return -(-nbytes // alignment) * alignment
