"""What both makers of GGUF files start from: the model in bfloat16 as one file, and its importance matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.gguf_imatrix import ImportanceMatrix, imatrix_of
from quantlab.models.calibration import Calibration, stream
from quantlab.models.load import load

Say = Callable[[str, float | None], None]
FLOATS = ("bf16", "f16")  # nothing is quantized


def make_gguf(order: dict[str, Any], say: Say, quantize: Callable[..., Path]) -> None:
    """Write order["out"]: convert, collect the importance of columns if asked to, quantize.

    quantize: called with the converted file, the target, the type and the importance matrix or None.
    """
    model, out, name = Path(order["model"]), Path(order["out"]), order["format"]
    say("converting", 0.0)
    if name in FLOATS:
        write_gguf(model, out, name)
        return
    whole = write_gguf(model, out.with_name("whole.gguf"), "bf16")
    importance = _importance(order, say) if order["method"] == "imatrix" else None
    say("quantizing", 0.9)
    quantize(whole, out, name, importance)


def _importance(order: Mapping[str, Any], say: Say) -> ImportanceMatrix:
    """Mean x^2 of every column, block by block, so that the sums of one block are in memory at a time."""
    windows = tuple(tuple(window) for window in order["windows"])
    calibration = Calibration(windows, max(map(len, windows)), at_least=1)
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for part in stream(load(order["model"]), calibration, progress=lambda what, share: say(what, 0.9 * share)):
        found = imatrix_of(part.stats)
        sums |= found.sums
        counts |= found.counts
    return ImportanceMatrix(sums, counts, (order["made"].get("calibration", ""),))
