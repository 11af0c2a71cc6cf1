"""Which weights and importance matrices stand in gguf_blocks.json, and what of their bytes is kept: a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from torch import Tensor

TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "iq4_xs")
IMPORTANCE = ("none", "drawn", "partly zero")


def keys(weights: dict[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    """(type, weights, importance) of every entry; Q8_0 has no use for importance."""
    for kind in TYPES:
        for case in weights:
            for importance in IMPORTANCE if kind != "q8_0" else IMPORTANCE[:1]:
                yield kind, case, importance


def digest(blocks: Tensor) -> str:
    """The first 64 bits of the SHA-256 of the bytes."""
    return hashlib.sha256(blocks.contiguous().numpy().tobytes()).hexdigest()[:16]
