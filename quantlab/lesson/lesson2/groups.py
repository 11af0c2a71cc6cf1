"""Exercise: round a whole matrix, with one scale for each group of weights. The check compares with `IntAffine`."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from quantlab.formats.int_affine import IntAffine
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging_tensors import TensorCase, judge_on_tensors
from quantlab.lesson.lesson2.draws import normal


def round_in_groups(W: Tensor, bits: int, group: int) -> Tensor:
    """W [n, k] -> its nearest levels [n, k], with a scale for each `group` neighbours of a row."""
    G = W.reshape(len(W), -1, group)  # [n, k/g, g]
    scale = G.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)  # [n, k/g, 1]
    codes = (G / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (codes * scale).reshape(W.shape)


def _levels(W: Tensor, scale: Tensor, bits: int) -> Tensor:
    return (W / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale


def _one_scale(W: Tensor, bits: int, group: int) -> Tensor:
    return _levels(W, W.abs().max() / ((2**bits - 1) / 2), bits)


def _one_a_row(W: Tensor, bits: int, group: int) -> Tensor:
    return _levels(W, W.abs().amax(1, keepdim=True) / ((2**bits - 1) / 2), bits)


def _down_the_columns(W: Tensor, bits: int, group: int) -> Tensor:
    return round_in_groups(W.T.contiguous(), bits, group).T


def _no_clamp(W: Tensor, bits: int, group: int) -> Tensor:
    G = W.reshape(len(W), -1, group)
    scale = G.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)
    return ((G / scale).round() * scale).reshape(W.shape)


def _rounded_down(W: Tensor, bits: int, group: int) -> Tensor:
    G = W.reshape(len(W), -1, group)
    scale = G.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)
    return ((G / scale).floor().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale).reshape(W.shape)


def _codes(W: Tensor, bits: int, group: int) -> Tensor:
    G = W.reshape(len(W), -1, group)
    scale = G.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)
    return (G / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).reshape(W.shape)


def _no_abs(W: Tensor, bits: int, group: int) -> Tensor:
    G = W.reshape(len(W), -1, group)
    return _levels(G, G.amax(-1, keepdim=True) / ((2**bits - 1) / 2), bits).reshape(W.shape)


def _whole_range(W: Tensor, bits: int, group: int) -> Tensor:
    G = W.reshape(len(W), -1, group)
    return _levels(G, G.abs().amax(-1, keepdim=True) / (2**bits - 1), bits).reshape(W.shape)


def cases(rng: random.Random) -> list[TensorCase]:
    """Square matrices, so that groups down the columns have a shape too; one with an outlier, which needs the clamp."""
    found = []
    for name, bits, group in (("3 bits in groups of 16", 3, 16), ("4 bits in groups of 32", 4, 32)):
        found.append(_case(name, normal(rng, 64, 64), bits, group))
    for at in range(3):
        W = normal(rng, 128, 128)
        W[:, rng.randrange(128)] *= 6  # an outlier in each row
        found.append(_case(f"a random matrix ({at + 1})", W, rng.choice((2, 3, 4)), rng.choice((16, 32, 64))))
    return found


def _case(name: str, W: Tensor, bits: int, group: int) -> TensorCase:
    """In one row of 16 the largest |w| of each group is below zero: there it lies halfway between two levels.

    Above zero it does too, but only one of the two levels exists.
    """
    G = W.reshape(len(W), -1, group)
    G *= G.gather(-1, G.abs().argmax(-1, keepdim=True)).sign()
    G[::16] *= -1
    W = G.reshape(W.shape)
    grid = IntAffine(bits, group, scale_dtype=torch.float32)
    p = grid.fit(W)
    return TensorCase(name, (W, bits, group), grid.decode(grid.encode(W, p), p))


exercise = Exercise(
    id="lesson2-groups",
    title="A scale for each group",
    question=(
        "You have rounded one group of weights. Now a whole matrix: write `round_in_groups(W, bits, group)`. `W` is "
        "[n, k]; each `group` neighbouring weights **of a row** share a scale, the largest |w| of the group divided by "
        "(2^bits - 1) / 2. Codes run from -2^(bits-1) to 2^(bits-1) - 1. Return what is stored: codes times scale, in "
        "the shape of `W`."
    ),
    starter='''\
def round_in_groups(W, bits, group):
    """W [n, k] -> its nearest levels [n, k], with a scale for each `group` neighbours of a row."""
    ...
''',
    answer=round_in_groups,
    hints=(
        "`W.reshape(len(W), -1, group)` has one group in its last dimension.",
        "`.abs().amax(-1, keepdim=True)` gives each group's largest |w| in a shape that divides the groups.",
        "`(G / scale).round().clamp(low, high) * scale`, then `.reshape(W.shape)`.",
    ),
    known_wrong=(
        (_one_scale, "one scale"),
        (_one_a_row, "one a row"),
        (_down_the_columns, "down the columns"),
        (_no_clamp, "no clamp"),
        (_rounded_down, "rounded down"),
        (_codes, "codes"),
        (_no_abs, "no abs"),
        (_whole_range, "whole range"),
    ),
    diagnoses={
        "one scale": "One scale serves your whole matrix: its largest weight decides how coarse all others become.",
        "one a row": "You have one scale a row. `group` neighbours share one: split the row before you look for the "
        "largest.",
        "down the columns": (
            "Your groups run down the columns. They run along a row, because the weights of a row are multiplied by "
            "the inputs and added up: there the scale can be taken out of the sum."
        ),
        "no clamp": (
            "The largest weight of some groups gets a code that does not exist: w / scale reaches 2^(bits-1) - 1/2 and "
            "is rounded up to 2^(bits-1). Clamp the codes to the range."
        ),
        "rounded down": "You round down (`floor`), so every error has the same sign. The nearest level is meant.",
        "codes": "Those are the codes. What is stored for a weight is its code times the scale of its group.",
        "no abs": "You took the largest weight, not the largest |w|: a group's outlier is often negative.",
        "whole range": (
            "Your scale is half of what it must be: 2^bits - 1 steps reach from -max to +max, so a step is "
            "max / ((2^bits - 1) / 2). Everything above half of the largest weight is cut off."
        ),
    },
    judge=judge_on_tensors(cases, "the values are those of quantlab's IntAffine"),
)
