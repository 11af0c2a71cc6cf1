"""What a GGUF file really holds: each tensor's name, type, weights and bytes, from its bounded head.

See quantlab.formats.gguf_head for the format, and quantlab.formats.gguf_file for the tensors themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantlab.checkpoints.gguf_families import LINEAR
from quantlab.formats.gguf_head import read_head


@dataclass(frozen=True)
class GgufTensor:
    """One tensor as it is stored."""

    name: str
    kind: str  # llama.cpp's name of the type: Q4_K, F32, ...
    row: int  # numbers in a row: k of a weight [n, k]
    weights: int
    nbytes: int

    @property
    def is_linear(self) -> bool:
        """Whether it is the weight of a linear layer inside the model: no embedding, no output head, no norm."""
        parts = self.name.split(".")
        return parts[0] == "blk" and parts[2] in LINEAR.values() and parts[-1] == "weight"


def tensors(path: Path) -> list[GgufTensor]:
    """Every tensor of a file, in its order; raises QuantlabError for a file that is not whole."""
    return [
        GgufTensor(info.name, info.type.upper(), info.shape[-1], math.prod(info.shape), info.nbytes)
        for info in read_head(path).tensors.values()
    ]


def types_used(stored: Iterable[GgufTensor]) -> dict[str, int]:
    """How many of the linear layers got which type, the most frequent first: {"Q4_K": 24, "Q6_K": 4}."""
    return dict(Counter(tensor.kind for tensor in stored if tensor.is_linear).most_common())
