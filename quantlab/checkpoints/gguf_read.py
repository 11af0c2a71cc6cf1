"""What a GGUF file really holds: each tensor's name, type, weights and bytes.

Reference: gguf 0.19, `GGUFReader`, which maps the file. It trusts the lengths in the header and can hang on a crafted
file, so read only files that you or a known source made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gguf import GGUFReader

from quantlab.checkpoints.gguf_llama import LINEAR
from quantlab.errors import QuantlabError


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
    """Every tensor of a file, in its order."""
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise QuantlabError(f"{path} is not a whole GGUF file ({error}); make it again") from error
    return [
        GgufTensor(t.name, t.tensor_type.name, int(t.shape[0]), int(t.n_elements), int(t.n_bytes))
        for t in reader.tensors
    ]


def types_used(stored: Iterable[GgufTensor]) -> dict[str, int]:
    """How many of the linear layers got which type, the most frequent first: {"Q4_K": 24, "Q6_K": 4}."""
    return dict(Counter(tensor.kind for tensor in stored if tensor.is_linear).most_common())
