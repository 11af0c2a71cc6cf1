"""What a quantized model weighs, from the headers of its files alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from quantlab.checkpoints.read import outline
from quantlab.core import QuantizedTensor
from quantlab.formats.gguf_head import read_head

PLAIN = ("f32", "f16", "bf16", "f64")  # types of GGUF that are not quantized


@dataclass(frozen=True)
class Weight:
    """nbytes: all files. bits_per_weight: over the quantized layers, scales and zero points included."""

    nbytes: int
    bits_per_weight: float


def weigh(path: Path) -> Weight:
    """A folder of any kind that quantlab.checkpoints reads, or a GGUF file; raises QuantlabError for a damaged one."""
    if path.is_file():
        return _weigh_gguf(path)
    layers = headers_only(path)
    stored = sum(Q.nbytes for Q in layers.values())
    weights = sum(Q.shape[0] * Q.shape[1] for Q in layers.values())
    return Weight(sum(file.stat().st_size for file in path.iterdir()), 8 * stored / weights)


def _weigh_gguf(path: Path) -> Weight:
    matrices = [info for info in read_head(path).tensors.values() if len(info.shape) > 1]
    quantized = [info for info in matrices if info.type not in PLAIN] or matrices  # a file in bf16 has none
    weights = sum(math.prod(info.shape) for info in quantized)
    return Weight(path.stat().st_size, 8 * sum(info.nbytes for info in quantized) / weights)


def headers_only(folder: Path) -> dict[str, QuantizedTensor]:
    """Every quantized layer of a checkpoint with its format, shape and bytes, and no values: tensors on "meta"."""
    found = {}
    for name, layer in outline(folder).layers.items():
        sizes = {part: entry.nbytes for part, entry in layer.parts.items()}
        parts = {part: torch.empty(size, dtype=torch.uint8, device="meta") for part, size in sizes.items()}
        found[name] = QuantizedTensor(layer.fmt, parts, layer.shape)
    return found
