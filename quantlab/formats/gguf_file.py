"""GGUF, the file that llama.cpp maps into memory: its tensors as views into it, and the writer of such files.

    head       metadata, and name, shape, type and offset of every tensor          (quantlab.formats.gguf_head)
    padding
    data       each tensor at its offset, padded to the alignment

Reading costs no memory: `open_gguf` reads the head, bounded, and a tensor is a view into the mapped file. Writing costs
that of one tensor: `Later` stands for one that is made when its turn comes.

Reference: ggml's docs/gguf.md, version 3; gguf 0.19, `GGUFWriter`, which writes the same bytes for the same content.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.atomic import new_file, require_space
from quantlab.core import Format, QuantizedTensor
from quantlab.errors import QuantlabError, unknown
from quantlab.formats import gguf_iq4, gguf_k_lines, gguf_k_scales, gguf_legacy
from quantlab.formats.gguf_head import (
    LONGEST_NAME,
    MOST_DIMENSIONS,
    TYPES,
    GgufHead,
    TensorInfo,
    alignment_of,
    padded,
    read_head,
)
from quantlab.formats.gguf_values import text_bytes, typed, value_bytes

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
class GgufFile(GgufHead):
    """The head of a file, and its tensors as views into it."""

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
    head = read_head(path)
    return GgufFile(head.path, head.values, head.tensors, head.data_start)


@dataclass(frozen=True)
class Later:
    """A tensor that is made when its turn to be written comes: `make` gives one of this type (see TYPES) and shape."""

    type: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor | QuantizedTensor]


Stored = Tensor | QuantizedTensor | Later


def save_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Stored]) -> Path:
    """Write a GGUF file, whole or not at all; tensors pass through memory one at a time.

    metadata: Python values, or `Value`s where the type matters; general.alignment is obeyed. tensors: floats or
    integers of 1 to 4 dimensions, or QuantizedTensors of a GGUF format. Raises ValueError for what GGUF cannot hold.

    >>> from tempfile import mkdtemp
    >>> path = save_gguf(Path(mkdtemp()) / "a.gguf", {"a": 7}, {"w": torch.ones(2, 3)})
    >>> open_gguf(path).metadata, open_gguf(path).tensor("w").shape
    ({'a': 7}, torch.Size([2, 3]))
    """
    values = {key: typed(value) for key, value in metadata.items()}
    alignment = alignment_of(values)
    infos, offset = [], 0
    for name, tensor in tensors.items():
        infos.append(_info(name, tensor, offset))
        offset += padded(infos[-1].nbytes, alignment)
    head = b"".join([b"GGUF", *(n.to_bytes(size, "little") for n, size in ((3, 4), (len(infos), 8), (len(values), 8)))])
    head += b"".join(
        text_bytes(key) + value.kind.to_bytes(4, "little") + value_bytes(value) for key, value in values.items()
    )
    head += b"".join(info.to_bytes() for info in infos)
    require_space(path.parent, len(head) + offset, f"the GGUF file {path.name}")
    with new_file(path) as temporary, temporary.open("wb") as out:
        out.write(head)
        if infos:
            out.write(bytes(-len(head) % alignment))
        for info, tensor in zip(infos, tensors.values(), strict=True):
            raw = _raw(tensor)
            assert len(raw) == info.nbytes, f"{info.name} was promised with {info.nbytes} bytes, not {len(raw)}"
            out.write(raw)
            out.write(bytes(-len(raw) % alignment))
    return path


def _info(name: str, tensor: Stored, offset: int) -> TensorInfo:
    if len(text_bytes(name)) - 8 > LONGEST_NAME:
        raise ValueError(f"the tensor name {name!r} is longer than {LONGEST_NAME} bytes; shorten it")
    if isinstance(tensor, Later):
        return TensorInfo(name, tensor.type, tensor.shape, offset, TYPES[tensor.type].bytes_for(tensor.shape))
    if isinstance(tensor, QuantizedTensor):
        if tensor.fmt.name not in FORMATS:
            raise ValueError(f"{name} is stored as {tensor.fmt.name}, which is no GGUF type; take {', '.join(FORMATS)}")
        return TensorInfo(name, tensor.fmt.name, tensor.shape, offset, tensor.nbytes)
    kinds = [kind for kind, dtype in PLAIN.items() if dtype == tensor.dtype]
    if not kinds or not 1 <= tensor.ndim <= MOST_DIMENSIONS or not tensor.numel():
        raise ValueError(
            f"{name} is {tensor.dtype} of shape {list(tensor.shape)}; GGUF takes 1 to 4 dimensions of floats"
        )
    return TensorInfo(name, kinds[0], tuple(tensor.shape), offset, tensor.numel() * tensor.element_size())


def _raw(tensor: Stored) -> bytes | memoryview:
    made = tensor.make() if isinstance(tensor, Later) else tensor
    if isinstance(made, QuantizedTensor):
        return made.to_bytes()
    return made.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
