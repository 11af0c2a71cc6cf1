"""The importance matrix: how much an error in each column of each weight costs, in llama.cpp's files.

A layer computes W x, so an error in column j of W is multiplied by x_j: its share of the squared error of the output is
mean x_j^2 over the texts that the model is meant for. llama.cpp collects that for every matrix ("imatrix") and hands it
to the quantizers, which then spend their levels on the columns that matter. The diagonal of H / n_tokens is the same
number (quantlab.core.LayerStats), so any calibration here makes such a file.

    GGUF    general.type "imatrix", imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size, and for each matrix
            blk.0.ffn_up.weight.in_sum2 [k]   sum of x^2 over the tokens, float32
            blk.0.ffn_up.weight.counts [1]    tokens, float32
    .dat    the older form: entries i32 | each: name, chunks i32, values i32, mean x^2 times chunks, float32 |
            chunks i32 | the text's name; a name is a length i32 and that many bytes

Embedding and output head have no entry, unless the collector was told otherwise: llama.cpp quantizes them without.

Reference: llama.cpp, tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp, release of llama-cpp-python 0.3.36: its
llama-imatrix writes the same bytes, in both forms, for the same sums; the sums are compared with what llama.cpp has
inside. Left out: several matrices in one tensor (mixtures of experts).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.atomic import new_file
from quantlab.checkpoints.gguf_families import gguf_name
from quantlab.core import LayerStats
from quantlab.errors import QuantlabError
from quantlab.formats.gguf_file import GgufFile, Later, open_gguf, save_gguf
from quantlab.formats.gguf_head import GgufHead
from quantlab.formats.gguf_values import Kind, Source, Value

_SUM, _COUNT = ".in_sum2", ".counts"
_CHUNK = 512  # tokens in a chunk, llama.cpp's default; .dat files do not say it


@dataclass(frozen=True)
class ImportanceMatrix:
    """Sums of x^2 [k], float32, and tokens they run over, by the name of the weight in GGUF."""

    sums: Mapping[str, Tensor]
    counts: Mapping[str, int]
    datasets: tuple[str, ...] = ()
    chunk_size: int = _CHUNK

    @property
    def chunks(self) -> int:
        """Whole chunks of tokens that were seen."""
        return max(self.counts.values(), default=0) // self.chunk_size

    def importance(self, name: str) -> Tensor | None:
        """Mean x^2 of each column [k], float32; ones where no token was seen, None for a weight without an entry."""
        if name not in self.sums:
            return None
        count = self.counts[name]
        return self.sums[name] / count if count else torch.ones_like(self.sums[name])

    def check(self, file: GgufHead) -> None:
        """Raise QuantlabError unless this can be the importance of the weights in a GGUF file."""
        shared = [name for name in self.sums if name in file.tensors]
        if not shared:
            raise QuantlabError(f"the importance matrix names no weight of {file.path}; collect it with this model")
        for name in shared:
            if len(self.sums[name]) != (k := file.tensors[name].shape[-1]):
                raise QuantlabError(
                    f"the importance matrix has {len(self.sums[name])} values for {name}, but {file.path} has rows of "
                    f"{k}; collect it with this model"
                )


def imatrix_of(stats: Mapping[str, LayerStats], datasets: tuple[str, ...] = ()) -> ImportanceMatrix:
    """The importance matrix of calibration statistics: layer name, as quantlab.models.calibration has it -> LayerStats.

    datasets: names of the texts, for the file.

    >>> stats = LayerStats(2, torch.diag(torch.tensor([8.0, 2.0])), torch.ones(2), torch.ones(2))
    >>> imatrix_of({"model.layers.0.mlp.up_proj": stats}).importance("blk.0.ffn_up.weight")
    tensor([4., 1.])
    """
    named = {gguf_name(f"{layer}.weight"): one for layer, one in stats.items()}
    sums = {name: one.H.diagonal().float().cpu().clone() for name, one in named.items()}
    return ImportanceMatrix(sums, {name: one.n_tokens for name, one in named.items()}, datasets)


def write_imatrix(path: Path, imatrix: ImportanceMatrix) -> Path:
    """Write a file that `llama-quantize --imatrix` takes, whole or not at all; the older form if it ends in .dat."""
    if path.suffix == ".dat":
        with new_file(path) as temporary:
            temporary.write_bytes(_legacy_bytes(imatrix))
        return path
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": Value(Kind.ARRAY, list(imatrix.datasets), Kind.STRING),
        "imatrix.chunk_count": Value(Kind.UINT32, imatrix.chunks),
        "imatrix.chunk_size": Value(Kind.UINT32, imatrix.chunk_size),
    }
    tensors: dict[str, Tensor | Later] = {}
    for name in sorted(imatrix.sums):
        tensors |= {name + _SUM: imatrix.sums[name], name + _COUNT: torch.tensor([float(imatrix.counts[name])])}
    return save_gguf(path, metadata, tensors)


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read either form; raises QuantlabError for a file that is missing, cut off, or no importance matrix."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                file.seek(0)
                return _checked(path, _read_legacy(path, Source(file, path.stat().st_size)))
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; check the path") from error
    return _checked(path, _read_gguf(path))


def _checked(path: Path, imatrix: ImportanceMatrix) -> ImportanceMatrix:
    if not imatrix.sums:
        raise QuantlabError(f"{path} holds no importance of any weight; collect it again")
    for name, values in imatrix.sums.items():
        if not (torch.isfinite(values).all() and (values >= 0).all()):
            raise QuantlabError(f"{path}: the importance of {name} is negative or not finite; collect it again")
    return imatrix


def _read_gguf(path: Path) -> ImportanceMatrix:
    file = open_gguf(path)
    said: dict[str, Any] = file.metadata
    names = [name.removesuffix(_SUM) for name in file.tensors if name.endswith(_SUM)]
    if said.get("general.type") != "imatrix" or not names:
        raise QuantlabError(f"{path} is a GGUF file, but no importance matrix; give the file that llama-imatrix wrote")
    sums, counts = {}, {}
    for name in names:
        total, count = (_floats(file, name + suffix) for suffix in (_SUM, _COUNT))
        if count.numel() != 1:
            raise QuantlabError(f"{path} is of a mixture of experts ({name}), which cannot be used here")
        sums[name], counts[name] = total, _whole(count.item())
    datasets, chunk = said.get("imatrix.datasets"), said.get("imatrix.chunk_size")
    texts = tuple(map(str, datasets)) if isinstance(datasets, list) else ()
    return ImportanceMatrix(sums, counts, texts, chunk if isinstance(chunk, int) and chunk > 0 else _CHUNK)


def _floats(file: GgufFile, key: str) -> Tensor:
    values = file.tensor(key) if key in file.tensors else None
    if not isinstance(values, Tensor) or values.dtype != torch.float32:
        raise QuantlabError(f"{file.path} has no {key} in float32; collect it again")
    return values.flatten().clone()


def _whole(count: float) -> int:
    if not 0 <= count < 2**53:
        raise QuantlabError(f"an importance matrix counts {count} tokens; collect it again")
    return round(count)


def _read_legacy(path: Path, source: Source) -> ImportanceMatrix:
    try:
        return _legacy(source)
    except QuantlabError as error:
        raise QuantlabError(f"{path} is no importance matrix: {error}; collect it again") from error


def _legacy(source: Source) -> ImportanceMatrix:
    sums, counts = {}, {}
    datasets: tuple[str, ...] = ()
    for _ in range(source.spend(_i32(source), 12)):  # a length, chunks and a number of values at least
        name = _text(source)
        chunks, size = _i32(source), _i32(source)
        raw = bytearray(source.take(4 * size))
        sums[name] = torch.frombuffer(raw, dtype=torch.float32) * _CHUNK if raw else torch.zeros(0)
        counts[name] = max(chunks, 1) * _CHUNK  # llama.cpp takes the values as they are where no chunk is counted
    if source.left:
        source.take(4)  # chunks
        datasets = (_text(source),) if source.left else ()
    return ImportanceMatrix(sums, counts, datasets)


def _i32(source: Source) -> int:
    number = int.from_bytes(source.take(4), "little", signed=True)
    if number < 0:
        raise QuantlabError(f"it counts {number} of something")
    return number


def _text(source: Source) -> str:
    return source.take(_i32(source)).decode("utf-8", "surrogateescape")


def _legacy_bytes(imatrix: ImportanceMatrix) -> bytes:
    def text(value: str) -> bytes:
        raw = value.encode("utf-8", "surrogateescape")
        return struct.pack("<i", len(raw)) + raw

    seen = sorted(name for name in imatrix.sums if imatrix.counts[name])
    out = [struct.pack("<i", len(seen))]
    for name in seen:
        mean = imatrix.importance(name)
        assert mean is not None
        chunks = -(-imatrix.counts[name] // imatrix.chunk_size)
        out += [text(name), struct.pack("<ii", chunks, len(mean)), (mean * chunks).numpy().tobytes()]
    return b"".join([*out, struct.pack("<i", imatrix.chunks), text(imatrix.datasets[-1] if imatrix.datasets else "")])
