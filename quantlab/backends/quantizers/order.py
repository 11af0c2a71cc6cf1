"""What is ordered of a library, and what comes back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROW = -1  # a group that is a whole row, as GPTQ and AWQ spell it in their configs


@dataclass(frozen=True)
class Order:
    """One quantization, as its process is told: plain values only.

    format: a name of quantlab.formats.catalog, or a GGUF type. group: weights that share a scale, along a row; ROW for
    all of it, None where the format leaves no choice. windows: token ids to calibrate on; empty for none. keep: full
    names of layers that stay as they are, beside the embedding and the head. dtype: what the model was published in.
    clip: AutoAWQ's search for ranges, its second step and on a CPU most of its work.
    out: what the process writes, a folder or a .gguf file. resume: a folder for results that an interrupt leaves. made:
    what the model card shall say beside that (quantlab.checkpoints.card).
    """

    model: str
    out: str
    method: str
    format: str
    bits: int
    group: int | None
    symmetric: bool | None
    dtype: str
    windows: tuple[tuple[int, ...], ...] = ()
    keep: tuple[str, ...] = ()
    clip: bool = True
    threads: int = 1
    resume: str | None = None
    made: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Made:
    """A quantized model on the disk, and what making it took.

    nbytes: all files together. bits_per_weight: over the layers that are quantized, scales included. seconds: of the
    library's work, loading and saving included, without the start of its process. peak_bytes: the most memory that its
    process had. settings: what the library was told.
    """

    path: Path
    library: str
    method: str
    format: str
    nbytes: int
    bits_per_weight: float
    seconds: float
    peak_bytes: int
    device: str
    tokens: int
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self) | {"path": str(self.path)}
