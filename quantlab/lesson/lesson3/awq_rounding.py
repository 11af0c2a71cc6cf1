"""Exercise: AWQ's rounding. Scale the columns up by the size of their inputs, round, scale back."""

from __future__ import annotations

import random

from torch import Tensor

from quantlab.lesson.exercises import Exercise, source
from quantlab.lesson.judging_tensors import TensorCase, judge_on_tensors
from quantlab.lesson.lesson2.draws import normal
from quantlab.lesson.lesson2.story import rounded

ALPHAS = (0.3, 0.4, 0.6, 0.7)  # at 0.5, a and 1 - a are the same


def awq_round(W: Tensor, x: Tensor, a: float, bits: int, group: int) -> Tensor:
    """W [n, k], its columns scaled by x^a, rounded, scaled back; x [k]: the mean size of each input."""
    s = x**a
    return rounded(W * s, bits, group) / s


def _plain(W: Tensor, x: Tensor, a: float, bits: int, group: int) -> Tensor:
    return rounded(W, bits, group)


def _not_back(W: Tensor, x: Tensor, a: float, bits: int, group: int) -> Tensor:
    return rounded(W * x**a, bits, group)


def _wrong_way(W: Tensor, x: Tensor, a: float, bits: int, group: int) -> Tensor:
    return rounded(W / x**a, bits, group) * x**a


def _times(W: Tensor, x: Tensor, a: float, bits: int, group: int) -> Tensor:
    return rounded(W * (a * x), bits, group) / (a * x)


def _squared(W: Tensor, x: Tensor, a: float, bits: int, group: int) -> Tensor:
    return awq_round(W, x, 2 * a, bits, group)


def _one_minus(W: Tensor, x: Tensor, a: float, bits: int, group: int) -> Tensor:
    return awq_round(W, x, 1 - a, bits, group)


def _weights(W: Tensor, x: Tensor, a: float, bits: int, group: int) -> Tensor:
    return awq_round(W, W.abs().mean(0), a, bits, group)


def cases(rng: random.Random) -> list[TensorCase]:
    """Square matrices, so that a scale down the rows has a shape too; inputs that differ a hundredfold."""
    found = []
    for at in range(4):
        W, x = normal(rng, 64, 64), normal(rng, 64).mul(60).exp()
        a, bits = rng.choice(ALPHAS), rng.choice((3, 4))
        arguments = (W, x.clamp(0.05, 20), a, bits, 32)
        found.append(TensorCase(f"a random layer ({at + 1})", arguments, awq_round(*arguments)))
    return found


exercise = Exercise(
    id="lesson3-awq-rounding",
    title="Scale, round, scale back",
    question=(
        "`x` [k] holds the mean size of each input of a layer. Write `awq_round(W, x, a, bits, group)`: multiply the "
        "columns of `W` [n, k] by s = x^a, round with `rounded(W, bits, group)` of lesson 2, and divide by s again, so "
        "that what you return stands for `W` itself. (In a real model it is the **inputs** that are divided; the "
        "product is the same.)"
    ),
    starter='''\
from quantlab.lesson.lesson2.story import rounded


def awq_round(W, x, a, bits, group):
    """W [n, k], its columns scaled by x^a, rounded, scaled back; x [k]: the mean size of each input."""
    ...
''',
    answer=awq_round,
    hints=(
        "`s = x**a` has one number for each column; `W * s` multiplies column j by s[j], since s lies along the rows.",
        "`rounded(W * s, bits, group)` is what the file holds.",
        "Divide it by s: `rounded(W * s, bits, group) / s`.",
    ),
    known_wrong=(
        (_plain, "plain"),
        (_not_back, "not back"),
        (_wrong_way, "wrong way"),
        (_times, "times"),
        (_squared, "squared"),
        (_one_minus, "one minus"),
        (_weights, "weights"),
    ),
    diagnoses={
        "plain": (
            "That is plain rounding to nearest. Either s came after the rounding, or it lies down the rows "
            "(`s[:, None]`): a factor that a whole group shares changes nothing, since the group's scale grows with it."
        ),
        "not back": "Those are the scaled weights. Divide by s, so that they stand for `W` again.",
        "wrong way": "You made the important columns smaller before rounding: multiply by s first, divide afterwards.",
        "times": "x is raised to the power a, not multiplied by it. (a factor that all columns share changes nothing.)",
        "squared": "Your exponent is twice a. The mean size of the inputs is raised to a, not their mean square.",
        "one minus": "Your exponent is 1 - a.",
        "weights": "You took the size of the weights. AWQ looks at the inputs: `x` holds their sizes.",
    },
    judge=judge_on_tensors(cases, "the weights are those that AWQ's scaling leaves"),
    solution_code=f"from quantlab.lesson.lesson2.story import rounded\n\n\n{source(awq_round)}",
)
