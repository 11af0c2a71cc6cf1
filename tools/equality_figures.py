"""Two checkpoints of one model, ours and a library's, compared: codes, scales, bytes, logits, perplexity.

    codes    the integers (or the places in a code book), layer by layer
    scales   everything that is stored beside them: scales, zero points, global scales
    bytes    the parts of every quantized layer as they lie in the file
    again    the library's file read by our reader and packed again by our packer: the same bytes?

`again` holds whoever chose the codes: it says that we mean by the bytes what the library means. Scales that a library
keeps in another type than our packer are not the same bytes (GPTQModel's AWQ: bfloat16 instead of float16).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.backends.llama_cpp_logits import Logits
from quantlab.checkpoints.read import dequantized, read_checkpoint
from quantlab.core import QuantizedTensor
from quantlab.evaluate.logits import Source, TorchLogits
from quantlab.evaluate.windows import Windows
from quantlab.formats.gguf_file import open_gguf
from quantlab.models.load import LoadedModel


@dataclass(frozen=True)
class Same:
    """Shares from 0 to 1 over all quantized layers; None where there is no such thing."""

    layers: int
    codes: float | None
    scales: float | None
    nbytes: float
    again: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class _Count:
    equal: int = 0
    of: int = 0

    def add(self, a: Tensor, b: Tensor) -> None:
        self.of += max(a.numel(), b.numel())
        if a.shape == b.shape:
            self.equal += int((a == b).sum())

    @property
    def share(self) -> float | None:
        return self.equal / self.of if self.of else None


def same(ours: Path, theirs: Path) -> Same:
    """Compare two folders, or two GGUF files."""
    return _same_gguf(ours, theirs) if ours.is_file() else _same_folders(read_checkpoint(ours), read_checkpoint(theirs))


def _same_folders(ours: dict[str, QuantizedTensor], theirs: dict[str, QuantizedTensor]) -> Same:
    if ours.keys() != theirs.keys():
        raise ValueError(f"other layers are quantized: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    codes, scales, stored = _Count(), _Count(), _Count()
    again = True
    for name, a in ours.items():
        b = theirs[name]
        (q, p), (their_q, their_p) = (Q.fmt.packing.unpack(Q.parts, Q.shape) for Q in (a, b))
        codes.add(q, their_q)
        for part in p.keys() | their_p.keys():
            scales.add(*(torch.as_tensor(one.get(part, float("nan"))).float() for one in (p, their_p)))
        for part in a.parts.keys() | b.parts.keys():
            stored.add(*(_bytes(Q.parts.get(part)) for Q in (a, b)))
        again &= b.fmt.store(their_q, their_p).to_bytes() == b.to_bytes()
    return Same(len(ours), codes.share, scales.share, stored.share or 0.0, again)


def _bytes(part: Tensor | None) -> Tensor:
    return torch.empty(0, dtype=torch.uint8) if part is None else part.contiguous().flatten().view(torch.uint8)


def _same_gguf(ours: Path, theirs: Path) -> Same:
    a, b = open_gguf(ours), open_gguf(theirs)
    types = [{name: (info.type, info.shape) for name, info in file.tensors.items()} for file in (a, b)]
    if types[0] != types[1]:
        other = sorted(name for name in types[0].keys() | types[1].keys() if types[0].get(name) != types[1].get(name))
        raise ValueError(f"other tensors or types: {other[:3]}")
    stored = _Count()
    matrices = [name for name, info in a.tensors.items() if len(info.shape) > 1]
    for name in matrices:
        stored.add(a.raw(name), b.raw(name))
    whole = stored.equal == stored.of
    return Same(len(matrices), 1.0 if whole else None, 1.0 if whole else None, stored.share or 0.0, None)


def identical(ours: Path, theirs: Path) -> bool:
    """Whether two files, or all tensors of two folders, are the same byte for byte."""
    if ours.is_file():
        return ours.read_bytes() == theirs.read_bytes()
    from safetensors.torch import load_file

    sides = []
    for folder in (ours, theirs):
        tensors: dict[str, Tensor] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(shard)
        sides.append(tensors)
    a, b = sides
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and torch.equal(_bytes(a[name]), _bytes(b[name]))
        for name in a
    )


@dataclass(frozen=True)
class Measured:
    """Perplexity of both, and the largest difference of a logit, over all windows of a text."""

    perplexity: float
    their_perplexity: float
    logits: float


def measure(ours: Path, theirs: Path, loaded: LoadedModel, text: Windows, alike: bool) -> Measured:
    """Run both on the same windows: folders dequantized, by PyTorch in float32; GGUF files by llama.cpp.

    alike: the two are the same bytes, so that one is run.
    """
    tokens = [window.tokens for window in text.windows]
    scored = sum(len(ids) - 1 for ids in tokens)
    surprise, largest = [0.0, 0.0], 0.0
    for ids, *both in zip(tokens, *(_run(path, loaded, tokens) for path in ([ours] if alike else [ours, theirs])),
                          strict=True):  # fmt: skip
        wanted = torch.tensor(ids[1:])[:, None]
        for side, logits in enumerate(both):
            surprise[side] -= float(logits[:-1].log_softmax(-1).gather(1, wanted).double().sum())
        if not alike:
            largest = max(largest, float((both[0] - both[1]).abs().max()))
    own = math.exp(surprise[0] / scored)
    return Measured(own, own if alike else math.exp(surprise[1] / scored), largest)


def _run(path: Path, loaded: LoadedModel, tokens: list[tuple[int, ...]]) -> Iterator[Tensor]:
    if path.is_dir():
        yield from source_of(path, loaded)(tokens)
        return
    with Logits(path, max(map(len, tokens))) as logits:
        yield from logits(tokens)


def source_of(folder: Path, loaded: LoadedModel, bfloat16: bool = False) -> Source:
    """The model with the parameters of a checkpoint, folded norms and all; rounded to bfloat16 as loaders hold them."""
    known = {name for name, _ in loaded.model.named_parameters()}
    found = {name: W for name, W in dequantized(folder).items() if name in known}
    if missing := sorted(known - found.keys()):
        raise ValueError(f"{folder} has no {missing[0]}")
    return TorchLogits(loaded.model, {n: (W.bfloat16() if bfloat16 else W).float() for n, W in found.items()})


def log_probabilities(source: Source, tokens: list[list[int]]) -> Tensor:
    """Of each token but the first of each sequence, end to end."""
    found = []
    for ids, logits in zip(tokens, source(tokens), strict=True):
        found.append(logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0])
    return torch.cat(found)
