"""GGUF, the file that llama.cpp maps into memory: metadata, a list of tensors, and their bytes.

    GGUF | version u32 = 3 | tensors u64 | pairs u64
    pairs      key: text | type u32 | value                            (quantlab.formats.gguf_values)
    tensors    name: text | dimensions u32 | each u64, fastest first | type u32 | offset u64
    padding to a multiple of the alignment (general.alignment, else 32)
    data       each tensor at its offset from here, padded to the alignment

Reading costs no memory: `open_gguf` reads the head, a tensor is a view into the mapped file. Nothing in the head is
believed before it is checked against the size of the file, so a cut or crafted file raises QuantlabError at once: that
matters: llama.cpp's issue 27188 reports a file of 43 bytes on which the gguf package's own reader hangs.

Reference: ggml's docs/gguf.md (versions 2 and 3 are read, 3 is written); gguf 0.19, `GGUFWriter`, which writes the same
bytes for the same content. Left out: version 1, big-endian files, files in several pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from quantlab.atomic import new_file, require_space
from quantlab.core import Format, QuantizedTensor
from quantlab.errors import QuantlabError, unknown
from quantlab.formats import gguf_iq4, gguf_k_lines, gguf_k_scales, gguf_legacy
from quantlab.formats.gguf_values import Source, Value, text_bytes, typed, value_bytes

ALIGNMENT = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
_LONGEST_NAME = 63  # bytes of a tensor's name; llama.cpp refuses more
_BLOCKS: dict[str, Callable[..., Format]] = {
    **gguf_legacy.BUILDERS,
    **gguf_iq4.BUILDERS,
    **gguf_k_scales.BUILDERS,
    **gguf_k_lines.BUILDERS,
}
FORMATS: dict[str, Format] = {name: build() for name, build in _BLOCKS.items()}
PLAIN = {
    "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64,
    "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorType:
    """A type of tensor: its number in the file; `block` weights take `nbytes` bytes."""

    number: int
    block: int
    nbytes: int


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
    "nvfp4": TensorType(40, 64, 36),
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


@dataclass(frozen=True)
class GgufFile:
    """The head of a file, and its tensors as views into it."""

    path: Path
    values: dict[str, Value]
    tensors: dict[str, TensorInfo]
    data_start: int

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata as Python has it."""
        return {key: value.plain for key, value in self.values.items()}

    @cached_property
    def _mapped(self) -> Tensor:
        nbytes = self.path.stat().st_size
        if nbytes < max((self.data_start + info.nbytes + info.offset for info in self.tensors.values()), default=0):
            raise QuantlabError(f"{self.path} became shorter since it was opened; download or convert it again")
        return torch.from_file(str(self.path), shared=False, size=nbytes, dtype=torch.uint8)

    def raw(self, name: str) -> Tensor:
        """The bytes of a tensor, uint8 [nbytes], not copied; raises QuantlabError for an unknown name."""
        if name not in self.tensors:
            raise unknown("tensor", name, self.tensors)
        info = self.tensors[name]
        start = self.data_start + info.offset
        return self._mapped[start : start + info.nbytes]

    def tensor(self, name: str) -> Tensor | QuantizedTensor:
        """A tensor of floats or integers in its shape, or a QuantizedTensor [rows, k]; not copied.

        Leading dimensions of quantized tensors become rows. Raises QuantlabError for a type that quantlab cannot read.
        """
        raw, info = self.raw(name), self.tensors[name]
        if info.type in PLAIN:
            return raw.view(PLAIN[info.type]).reshape(info.shape)
        if info.type not in FORMATS:
            known = ", ".join([*PLAIN, *FORMATS])
            raise QuantlabError(f"{name} is stored as {info.type}, which cannot be dequantized here; known are {known}")
        rows = math.prod(info.shape[:-1])
        return QuantizedTensor(FORMATS[info.type], {"blocks": raw.reshape(rows, -1)}, (rows, info.shape[-1]))


def open_gguf(path: Path) -> GgufFile:
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


def _head(path: Path, file: BinaryIO, size: int) -> GgufFile:
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
    alignment = _alignment(values)
    tensors = {}
    for _ in range(source.spend(n_tensors, 32)):  # two lengths, a dimension and a type at least
        info = _tensor_info(source, alignment)
        if info.name in tensors:
            raise QuantlabError(f"it has the tensor {info.name!r} twice")
        tensors[info.name] = info
    start = _padded(size - source.left, alignment)
    for info in tensors.values():
        if start + info.offset + info.nbytes > size:
            raise QuantlabError(f"{info.name!r} reaches beyond its end")
    return GgufFile(path, values, tensors, start)


def _alignment(values: Mapping[str, Value]) -> int:
    alignment = values[ALIGNMENT].value if ALIGNMENT in values else _DEFAULT_ALIGNMENT
    if not isinstance(alignment, int) or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise QuantlabError(f"its alignment is {str(alignment)[:40]}, not a power of two from 8 to 2^20")
    return alignment


def _tensor_info(source: Source, alignment: int) -> TensorInfo:
    name, dimensions = source.text(), source.u32()
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise QuantlabError(f"{name!r} has {dimensions} dimensions, not 1 to {_MOST_DIMENSIONS}")
    shape = tuple(source.u64() for _ in range(dimensions))[::-1]
    number, offset = source.u32(), source.u64()
    if number not in _NAMES:
        raise QuantlabError(f"{name!r} has the unknown type {number}")
    entry = TYPES[_NAMES[number]]
    if 0 in shape or shape[-1] % entry.block:
        raise QuantlabError(f"{name!r} of shape {list(shape)} is not made of blocks of {entry.block}")
    if offset % alignment:
        raise QuantlabError(f"{name!r} lies at {offset}, not a multiple of the alignment {alignment}")
    return TensorInfo(name, _NAMES[number], shape, offset, math.prod(shape) // entry.block * entry.nbytes)


def _padded(nbytes: int, alignment: int) -> int:
    return -(-nbytes // alignment) * alignment


def save_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor | QuantizedTensor]) -> Path:
    """Write a GGUF file, whole or not at all; tensors pass through memory one at a time.

    metadata: Python values, or `Value`s where the type matters; general.alignment is obeyed. tensors: floats or
    integers of 1 to 4 dimensions, or QuantizedTensors of a GGUF format. Raises ValueError for what GGUF cannot hold.
    """
    values = {key: typed(value) for key, value in metadata.items()}
    alignment = _alignment(values)
    infos, offset = [], 0
    for name, tensor in tensors.items():
        infos.append(_info(name, tensor, offset))
        offset += _padded(infos[-1].nbytes, alignment)
    head = b"".join([b"GGUF", *(n.to_bytes(size, "little") for n, size in ((3, 4), (len(infos), 8), (len(values), 8)))])
    head += b"".join(
        text_bytes(key) + value.kind.to_bytes(4, "little") + value_bytes(value) for key, value in values.items()
    )
    head += b"".join(map(_info_bytes, infos))
    require_space(path.parent, len(head) + offset, f"the GGUF file {path.name}")
    with new_file(path) as temporary, temporary.open("wb") as out:
        out.write(head)
        if infos:
            out.write(bytes(-len(head) % alignment))
        for tensor in tensors.values():
            raw = _raw(tensor)
            out.write(raw + bytes(-len(raw) % alignment))
    return path


def _info(name: str, tensor: Tensor | QuantizedTensor, offset: int) -> TensorInfo:
    if len(text_bytes(name)) - 8 > _LONGEST_NAME:
        raise ValueError(f"the tensor name {name!r} is longer than {_LONGEST_NAME} bytes; shorten it")
    if isinstance(tensor, QuantizedTensor):
        if tensor.fmt.name not in FORMATS:
            raise ValueError(f"{name} is stored as {tensor.fmt.name}, which is no GGUF type; take {', '.join(FORMATS)}")
        return TensorInfo(name, tensor.fmt.name, tensor.shape, offset, tensor.nbytes)
    kinds = [kind for kind, dtype in PLAIN.items() if dtype == tensor.dtype]
    if not kinds or not 1 <= tensor.ndim <= _MOST_DIMENSIONS or not tensor.numel():
        raise ValueError(
            f"{name} is {tensor.dtype} of shape {list(tensor.shape)}; GGUF takes 1 to 4 dimensions of floats"
        )
    return TensorInfo(name, kinds[0], tuple(tensor.shape), offset, tensor.numel() * tensor.element_size())


def _info_bytes(info: TensorInfo) -> bytes:
    numbers = [(len(info.shape), 4), *((size, 8) for size in reversed(info.shape))]
    numbers += [(TYPES[info.type].number, 4), (info.offset, 8)]
    return text_bytes(info.name) + b"".join(number.to_bytes(size, "little") for number, size in numbers)


def _raw(tensor: Tensor | QuantizedTensor) -> bytes:
    if isinstance(tensor, QuantizedTensor):
        return tensor.to_bytes()
    raw: bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return raw
