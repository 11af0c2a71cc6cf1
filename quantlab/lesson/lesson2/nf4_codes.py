"""Exercise: the NF4 codes of a block, by nearest entry of the table. The check compares with bitsandbytes itself."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from quantlab.backends import bitsandbytes
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging_tensors import TensorCase, judge_on_tensors
from quantlab.lesson.lesson2.draws import normal


def nf4_codes(w: Tensor, levels: Tensor) -> Tensor:
    """One block w [64], the 16 levels in [-1, 1] -> the code of each weight, 0 to 15."""
    absmax = w.abs().max()
    distance = (w[:, None] / absmax - levels).abs()  # [64, 16]
    return distance.argmin(-1)


def _not_scaled(w: Tensor, levels: Tensor) -> Tensor:
    return (w[:, None] - levels).abs().argmin(-1)


def _no_abs(w: Tensor, levels: Tensor) -> Tensor:
    return (w[:, None] / w.max() - levels).abs().argmin(-1)


def _level_below(w: Tensor, levels: Tensor) -> Tensor:
    return (torch.searchsorted(levels, w / w.abs().max(), right=True) - 1).clamp(0, 15)


def _level_above(w: Tensor, levels: Tensor) -> Tensor:
    return torch.searchsorted(levels, w / w.abs().max()).clamp(0, 15)


def _uniform(w: Tensor, levels: Tensor) -> Tensor:
    return ((w / w.abs().max() + 1) * 7.5).round()


def _values(w: Tensor, levels: Tensor) -> Tensor:
    return levels[nf4_codes(w, levels)] * w.abs().max()


def cases(rng: random.Random) -> list[TensorCase]:
    """Normal blocks, one with an outlier, one whose largest weight is negative; the codes are bitsandbytes' own."""
    outlier, negative = normal(rng, 64), normal(rng, 64)
    outlier[rng.randrange(64)] = 0.9
    negative[rng.randrange(64)] = -negative.abs().max() * 1.3
    blocks = {"a block with an outlier": outlier, "a block whose largest weight is negative": negative}
    blocks |= {f"a random block ({at + 1})": normal(rng, 64) * rng.uniform(0.1, 10) for at in range(4)}
    found = []
    for name, w in blocks.items():
        stored = bitsandbytes.quantize(w[None], "nf4", block=64)
        octets = stored.codes.flatten()
        codes = torch.stack([octets >> 4, octets & 15], -1).flatten()  # the first code in the high nibble
        found.append(TensorCase(name, (w, stored.state.code.clone()), codes))
    return found


exercise = Exercise(
    id="lesson2-nf4-codes",
    title="NF4: look it up",
    question=(
        "NF4 has no formula from code to value, only a table: `levels` [16], rising from -1 to 1. A block of 64 "
        "weights is divided by its largest |w|, and each weight gets the code of the nearest level. Write "
        "`nf4_codes(w, levels)` for one block `w` [64]: the 64 codes, whole numbers from 0 to 15."
    ),
    starter='''\
def nf4_codes(w, levels):
    """One block w [64], the 16 levels in [-1, 1] -> the code of each weight, 0 to 15."""
    ...
''',
    answer=nf4_codes,
    hints=(
        "Scale first: after `w / w.abs().max()` every weight lies between -1 and 1, as the levels do.",
        "`w[:, None] - levels` is [64, 16]: the distance of each weight from each level.",
        "`.abs().argmin(-1)` is the number of the nearest level.",
    ),
    known_wrong=(
        (_not_scaled, "not scaled"),
        (_no_abs, "no abs"),
        (_level_below, "level below"),
        (_level_above, "level above"),
        (_uniform, "uniform"),
        (_values, "values"),
    ),
    diagnoses={
        "not scaled": "The weights were not divided by the block's largest |w|: the table runs from -1 to 1.",
        "no abs": "You divided by the largest weight. Where the largest |w| is negative, that is another number.",
        "level below": "Each weight got the level below it. The nearest one may be above.",
        "level above": "Each weight got the level above it. The nearest one may be below.",
        "uniform": "Those are 16 even steps. NF4's levels are uneven: look the distance up in `levels`.",
        "values": "Those are the values. Here the codes are asked for: the numbers of the levels, 0 to 15.",
    },
    judge=judge_on_tensors(cases, "the codes are those of bitsandbytes"),
)
