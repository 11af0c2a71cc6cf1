"""Exercise: the error bar of a difference between two formats, told story by story."""

from __future__ import annotations

import math
import random

from torch import Tensor

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.lesson.lesson2.draws import normal


def error_bar(a: Tensor, b: Tensor) -> float:
    """Standard error of the mean of a - b; a [n] and b [n] belong to the same n stories."""
    d = a - b
    return float(d.std() / math.sqrt(len(d)))


def _unpaired(a: Tensor, b: Tensor) -> float:
    return math.sqrt(float(a.var() + b.var()) / len(a))


def _spread(a: Tensor, b: Tensor) -> float:
    return float((a - b).std())


def _over_n(a: Tensor, b: Tensor) -> float:
    return float((a - b).std() / len(a))


def _of_one(a: Tensor, b: Tensor) -> float:
    return float(a.std() / math.sqrt(len(a)))


def _difference_of_bars(a: Tensor, b: Tensor) -> float:
    return abs(float(a.std() - b.std())) / math.sqrt(len(a))


def _the_mean(a: Tensor, b: Tensor) -> float:
    return abs(float((a - b).mean()))


def _population(a: Tensor, b: Tensor) -> float:
    return float((a - b).std(correction=0) / math.sqrt(len(a)))


def cases(rng: random.Random) -> list[Case]:
    """Stories that differ much, formats that differ little."""
    found = []
    for at in range(4):
        n = rng.randint(6, 30)
        hard = 60 * normal(rng, n) + 5
        a = hard + 8 * normal(rng, n) + 0.2
        d = (a - hard).double()
        right = math.sqrt(float((d - d.mean()).square().sum()) / (n - 1) / n)
        found.append(Case(f"{n} random stories ({at + 1})", (a.double(), hard.double()), right))
    return found


exercise = Exercise(
    id="lesson4-paired",
    title="How sure is a difference?",
    question=(
        "Two formats were measured on the same n stories: `a` [n] and `b` [n] hold the loss of each story. The mean of "
        "a - b is the difference between the formats. Write `error_bar(a, b)`, the standard error of that mean: the "
        "standard deviation of the n **differences** (with n - 1), divided by the root of n."
    ),
    starter='''\
def error_bar(a, b):
    """Standard error of the mean of a - b; a [n] and b [n] belong to the same n stories."""
    ...
''',
    answer=error_bar,
    hints=(
        "First subtract, story by story; then forget about a and b.",
        "`d.std()` of torch divides by n - 1, as it should.",
        "`(a - b).std() / len(a) ** 0.5`",
    ),
    known_wrong=(
        (_unpaired, "unpaired"),
        (_spread, "spread"),
        (_over_n, "over n"),
        (_of_one, "of one"),
        (_difference_of_bars, "difference of bars"),
        (_the_mean, "the mean"),
        (_population, "population"),
    ),
    diagnoses={
        "unpaired": (
            "That is right for two formats measured on *different* stories. On the same ones, a story that is hard for "
            "one is hard for the other, and most of that spread cancels: subtract first."
        ),
        "spread": "That is how far single stories lie apart. The mean of n of them is surer, by the root of n.",
        "over n": "The error of a mean falls with the root of n, not with n.",
        "of one": "That is the error bar of `a` alone.",
        "difference of bars": "Error bars are not subtracted. Subtract the stories, and take the bar of that.",
        "the mean": "That is the difference itself. How sure is it?",
        "population": "Divide by n - 1: the mean was taken from the same stories. (`correction=0` divides by n.)",
    },
    judge=judge_on_cases(cases, tolerance=1e-6),
    solution_code='''\
def error_bar(a, b):
    """Standard error of the mean of a - b; a [n] and b [n] belong to the same n stories."""
    d = a - b
    return float(d.std() / len(d) ** 0.5)
''',
)
