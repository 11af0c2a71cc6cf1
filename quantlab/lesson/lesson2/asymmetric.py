"""Exercise: levels from the smallest to the largest weight, with a zero point. The check compares with `IntAffine`."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from quantlab.formats.int_affine import IntAffine
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging_tensors import TensorCase, judge_on_tensors
from quantlab.lesson.lesson2.draws import normal


def round_asymmetric(w: Tensor, bits: int) -> Tensor:
    """One group w [g] -> its nearest levels [g] between its smallest and its largest weight."""
    low, high = w.min().clamp(max=0), w.max().clamp(min=0)  # zero stays a level
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round()
    codes = (w / scale + zero).round().clamp(0, 2**bits - 1)
    return scale * (codes - zero)


def _zero_not_rounded(w: Tensor, bits: int) -> Tensor:
    low, high = w.min().clamp(max=0), w.max().clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    return low + scale * ((w - low) / scale).round()


def _symmetric(w: Tensor, bits: int) -> Tensor:
    scale = w.abs().max() / ((2**bits - 1) / 2)
    return (w / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale


def _zero_left_out(w: Tensor, bits: int) -> Tensor:
    low, high = w.min(), w.max()
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round()
    return scale * ((w / scale + zero).round().clamp(0, 2**bits - 1) - zero)


def _too_many_steps(w: Tensor, bits: int) -> Tensor:
    low, high = w.min().clamp(max=0), w.max().clamp(min=0)
    scale = (high - low) / 2**bits
    zero = (-low / scale).round()
    return scale * ((w / scale + zero).round().clamp(0, 2**bits - 1) - zero)


def _zero_not_taken_off(w: Tensor, bits: int) -> Tensor:
    low, high = w.min().clamp(max=0), w.max().clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    return scale * (w / scale + (-low / scale).round()).round().clamp(0, 2**bits - 1)


def _codes(w: Tensor, bits: int) -> Tensor:
    low, high = w.min().clamp(max=0), w.max().clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    return (w / scale + (-low / scale).round()).round().clamp(0, 2**bits - 1)


def cases(rng: random.Random) -> list[TensorCase]:
    """A skewed group, one of positive weights only, one of negative ones, and random ones."""
    skewed = normal(rng, 128)
    groups = {
        "a skewed group": torch.where(skewed > 0, 3 * skewed, skewed),
        "a group of positive weights": normal(rng, 128).abs() + 0.03,
        "a group of negative weights": -normal(rng, 128).abs() - 0.03,
    }
    groups |= {f"a random group ({at + 1})": normal(rng, 128) + rng.uniform(-0.05, 0.05) for at in range(3)}
    return [_case(name, w, bits) for (name, w), bits in zip(groups.items(), (3, 4, 3, 2, 3, 4), strict=True)]


def _case(name: str, w: Tensor, bits: int) -> TensorCase:
    grid = IntAffine(bits, None, symmetric=False, scale_dtype=torch.float32)
    p = grid.fit(w[None])
    return TensorCase(name, (w, bits), grid.decode(grid.encode(w[None], p), p)[0])


exercise = Exercise(
    id="lesson2-asymmetric",
    title="A zero point",
    question=(
        "Symmetric levels waste half of themselves on a group whose weights are mostly positive. Write "
        "`round_asymmetric(w, bits)` for one group `w` [g]: the 2^bits levels run from `low`, the smallest weight, to "
        "`high`, the largest; `low` is at most 0 and `high` at least 0, so that 0 itself stays a level. The scale is "
        "one step; the **zero point** is the whole number of steps from `low` to 0; codes run from 0 to 2^bits - 1. "
        "Return scale x (code - zero point)."
    ),
    starter='''\
def round_asymmetric(w, bits):
    """One group w [g] -> its nearest levels [g] between its smallest and its largest weight."""
    ...
''',
    answer=round_asymmetric,
    hints=(
        "2^bits levels have 2^bits - 1 steps between them.",
        "`low = w.min().clamp(max=0)`, `high = w.max().clamp(min=0)`; the zero point is `(-low / scale).round()`.",
        "`codes = (w / scale + zero).round().clamp(0, 2**bits - 1)`, and back: `scale * (codes - zero)`.",
    ),
    known_wrong=(
        (_zero_not_rounded, "zero not rounded"),
        (_symmetric, "symmetric"),
        (_zero_left_out, "zero left out"),
        (_too_many_steps, "too many steps"),
        (_zero_not_taken_off, "zero not taken off"),
        (_codes, "codes"),
    ),
    diagnoses={
        "zero not rounded": (
            "Your levels begin exactly at the smallest weight, so 0 lies between two of them. The zero point is a "
            "whole number: round it, and the levels shift by part of a step."
        ),
        "symmetric": "Those are symmetric levels, from -max|w| to max|w|. Take the smallest and the largest weight.",
        "zero left out": (
            "Where all weights are positive (or all negative) your levels leave 0 out. Clamp: `low` is at most 0, "
            "`high` at least 0."
        ),
        "too many steps": "2^bits levels have 2^bits - 1 steps between them; you divided by 2^bits.",
        "zero not taken off": "On the way back the zero point must be taken off: scale x (code - zero point).",
        "codes": "Those are the codes, from 0 to 2^bits - 1. Turn them back into weights.",
    },
    judge=judge_on_tensors(cases, "the values are those of quantlab's IntAffine"),
)
