"""The story model distilled to a quarter, RECORDED beside its quantized files: rows of `tools/distil.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from quantlab.assets import bundled

FILE, MODEL = "assets/recorded/distilled.json", "assets/story-model-small"


@dataclass(frozen=True)
class Row:
    """One file of the comparison: bytes, perplexity, KL divergence to the original, share of equal next words."""

    name: str
    parameters: int
    nbytes: int
    perplexity: float
    kl: float
    kl_stderr: float
    same_top: float


@lru_cache(maxsize=1)
def kept() -> dict[str, Any]:
    """The whole file."""
    found: dict[str, Any] = json.loads(bundled(FILE).read_text(encoding="utf-8"))
    return found


def rows() -> tuple[Row, ...]:
    """Original, student, and the original in five formats.

    >>> [row.name for row in rows()][:2]
    ['original, bf16', 'distilled, bf16']
    """
    return tuple(Row(**row) for row in kept()["rows"])


def folder() -> Path:
    """The student as a model folder."""
    return bundled(MODEL)


def provenance() -> str:
    """The day, the machine, and what the training took."""
    found = kept()
    return (
        f"RECORDED on {found['where']['date']} ({found['where']['machine']}): {found['stories']:,} stories written by "
        f"the original in {found['write_s'] / 60:.0f} minutes, {found['steps']} steps in {found['learn_s'] / 60:.0f}"
    )
