"""Lesson 2's third explorer: which 1% of the columns to protect, how, and in a layer with or without outliers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from quantlab.lesson.lesson2.salience import CHOICES, PLANTED, SHARE, columns, protected
from quantlab.lesson.lesson2.story import StoryModel, story_model
from quantlab.plots import Columns, Picture, salience_picture, salience_words
from quantlab.widgets.explorer import Control, Explorer

LAYER = "model.layers.2.self_attn.k_proj"
KEEP, NOTHING = "keep in 16 bits", "nothing"
SCALES = {f"scale x {scale:g}": scale for scale in (1.25, 1.5, 2, 4, 8, 20)}
WAYS = (NOTHING, KEEP, *SCALES)
INPUTS = {"as trained": 1.0, f"with outliers x {PLANTED:g}": PLANTED}


@dataclass(frozen=True)
class SalienceResult:
    """A setting, and the error that is left."""

    choice: str
    way: str
    inputs: str
    bits: int
    columns: Columns

    def __eq__(self, other: object) -> bool:
        mine = (self.choice, self.way, self.inputs, self.columns.error)
        return isinstance(other, SalienceResult) and mine == (
            other.choice, other.way, other.inputs, other.columns.error,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.choice, self.way, self.inputs))

    def words(self) -> str:
        """The picture in words."""
        return salience_words(self.columns)

    def formula(self) -> str:
        """What is rounded, and how the error is measured."""
        count, k = len(self.columns.chosen), len(self.columns.inputs)
        way = {
            NOTHING: "W_hat = Q(W)",
            KEEP: f"W_hat = Q(W), but the {count} chosen columns as they are: "
            f"{self.bits} + {16 - self.bits} x {count} / {k} = {self.bits + (16 - self.bits) * count / k:.2f} bits",
        }.get(self.way, f"W_hat = Q(W t) / t,  t = {SCALES.get(self.way, 1):g} in the {count} chosen columns, else 1")
        return "\n".join(
            (
                f"{way}   (Q: {self.bits} bits, groups of 128, with a zero point)",
                "error = |X (W_hat - W)'| / |X W'| over the calibration stories",
                f"      = {self.columns.error:.4f};  with nothing protected {self.columns.unprotected:.4f}",
            )
        )


@lru_cache(maxsize=128)
def salience_result(model: StoryModel, bits: int, choice: str, way: str, inputs: str) -> SalienceResult:
    """Protect columns of one layer and measure its outputs."""
    W, stats, planted = model.layers[LAYER], model.stats[LAYER], INPUTS[inputs]
    none = torch.empty(0, dtype=torch.long)
    chosen = none if way == NOTHING else columns(choice, LAYER, W, stats, planted)
    scale = None if way == KEEP else SCALES.get(way, 1.0)
    error = model.output_error(LAYER, protected(W, stats, chosen, scale, planted, bits))
    bare = error if way == NOTHING else salience_result(model, bits, choice, NOTHING, inputs).columns.error
    loud = torch.ones(W.shape[1])
    loud[columns("activations", LAYER, W, stats)] = planted
    label = "nothing" if way == NOTHING else f"{SHARE:.0%} by {choice}, {way.replace('keep', 'kept')}"
    told = f"{label} (inputs {inputs})"
    seen = Columns(told, stats.x_absmean * loud, W.norm(dim=0) / loud, chosen, error, bare)
    return SalienceResult(choice, way, inputs, bits, seen)


def salience_explorer(
    choice: str = "activations", way: str = NOTHING, inputs: str = "as trained", bits: int = 3
) -> Explorer[SalienceResult]:
    """The explorer on a layer of the story model, which is calibrated first (a few seconds)."""
    story = story_model()
    controls = (
        Control("inputs", "Inputs", tuple(INPUTS), inputs),
        Control("choice", "Chosen by", CHOICES, choice),
        Control("way", "Protect", WAYS, way),
    )

    def model(inputs: str, choice: str, way: str) -> SalienceResult:
        return salience_result(story, bits, choice, way, inputs)

    return Explorer(controls, model, draw)


def draw(result: SalienceResult, ghost: SalienceResult | None) -> Picture:
    """The picture of this setting, with the error before as a dashed outline."""
    return salience_picture(result.columns, ghost.columns if ghost else None)
