"""Lesson 4's second explorer: a format against bf16 under the roof of a card, batch by batch: PREDICTED."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from quantlab.plan.gpus import gpu
from quantlab.plan.roofline import Step, decode
from quantlab.plan.speed import crossover
from quantlab.plots.roofline import Roofs, roofline_picture, roofline_words
from quantlab.plots.theme import Picture
from quantlab.widgets.explorer import Control, Explorer

MODEL, CONTEXT, LARGE = "llama-3.1-8b", 1024, "bf16"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CARDS = ("t4", "a10", "l4", "rtx-4090", "a100-80", "l40s", "h100", "b200")
FORMATS = ("awq_int4_g128", "int8", "fp8_e4m3", "nvfp4", "q4_k_m")


@dataclass(frozen=True)
class RoofResult:
    """A setting, and both formats under its roof."""

    roofs: Roofs

    def words(self) -> str:
        """The picture in words."""
        return roofline_words(self.roofs)

    def formula(self) -> str:
        """A step's time at this batch, for both formats."""
        r = self.roofs
        rows = ((r.large, r.large_steps[r.at]), (r.small, r.small_steps[r.at]))
        lines = [f"{MODEL}, context {CONTEXT}: step = max(bytes / bandwidth, operations / rate) + attention"]
        for name, step in rows:
            attention = max(step.read_kv_s, step.attend_s)
            lines.append(
                f"{name:>14}: max({1e3 * step.read_weights_s:.2f}, {1e3 * step.multiply_s:.2f}) + "
                f"{1e3 * attention:.2f} = {1e3 * step.seconds:.2f} ms, multiplied in {step.dtype}"
            )
        meets = "never" if r.none_from is None else f"at batch {r.none_from:.0f}"
        return "\n".join((*lines, f"the small format's arithmetic meets the large one's reading {meets}"))


@lru_cache(maxsize=256)
def steps(card: str, fmt: str) -> tuple[Step, ...]:
    """The bound at each of BATCHES."""
    return tuple(decode(MODEL, fmt, card, batch, CONTEXT) for batch in BATCHES)


def result(batch: int, fmt: str, card: str) -> RoofResult:
    """The pure function of the three controls."""
    meeting = crossover(MODEL, fmt, LARGE, card)
    at = BATCHES.index(batch)
    return RoofResult(
        Roofs(
            gpu(card).label, LARGE, fmt, BATCHES, steps(card, LARGE), steps(card, fmt), at, meeting.full_until,
            meeting.none_from,
        )
    )  # fmt: skip


def roofline_explorer(card: str = "rtx-4090", fmt: str = "awq_int4_g128", batch: int = 1) -> Explorer[RoofResult]:
    """The explorer for Llama-3.1-8B; no card is needed."""
    controls = (
        Control("batch", "Batch", BATCHES, batch, slider=True),
        Control("fmt", "Format", FORMATS, fmt),
        Control("card", "GPU", CARDS, card, lambda name: gpu(name).label),
    )
    return Explorer(controls, result, draw)


def draw(result: RoofResult, ghost: RoofResult | None) -> Picture:
    """The picture of this setting, with the curve before as a dashed line."""
    return roofline_picture(result.roofs, ghost.roofs if ghost else None)
