"""Exercise: the scale that K-quants choose for given codes, errors weighed by an importance. By least squares."""

from __future__ import annotations

import random

from torch import Tensor

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.lesson.lesson2.draws import normal


def best_scale(w: Tensor, q: Tensor, importance: Tensor) -> Tensor:
    """The s with the smallest sum of importance (w - s q)^2; all three [g]."""
    return (importance * w * q).sum() / (importance * q * q).sum()


def _unweighted(w: Tensor, q: Tensor, importance: Tensor) -> Tensor:
    return (w * q).sum() / (q * q).sum()


def _squared(w: Tensor, q: Tensor, importance: Tensor) -> Tensor:
    return best_scale(w, q, importance**2)


def _inverse(w: Tensor, q: Tensor, importance: Tensor) -> Tensor:
    return best_scale(w, q, 1 / importance)


def _one_side(w: Tensor, q: Tensor, importance: Tensor) -> Tensor:
    return (importance * w * q).sum() / (q * q).sum()


def _absmax(w: Tensor, q: Tensor, importance: Tensor) -> Tensor:
    return w.abs().max() / 7.5


def _mean_ratio(w: Tensor, q: Tensor, importance: Tensor) -> Tensor:
    used = q != 0
    return (importance * w / q)[used].sum() / importance[used].sum()


def _no_code_above(w: Tensor, q: Tensor, importance: Tensor) -> Tensor:
    return (importance * w).sum() / (importance * q).sum()


def cases(rng: random.Random) -> list[Case]:
    """Groups of a real layer's size, codes by the largest weight, importances that differ a hundredfold."""
    found = []
    for at in range(6):
        w = normal(rng, 32)
        q = (w / (w.abs().max() / 7.5)).round().clamp(-8, 7)
        importance = normal(rng, 32).mul(20).exp()
        right = float(best_scale(w, q, importance))
        found.append(Case(f"a random group ({at + 1})", (w, q, importance), right))
    return found


exercise = Exercise(
    id="lesson3-best-scale",
    title="The best scale for given codes",
    question=(
        "A group of weights `w` [g] has its codes `q` [g] already (whole numbers around 0), and `importance` [g] says "
        "what an error in each weight costs. Which scale s makes the sum of importance x (w - s q)^2 smallest? Write "
        "`best_scale(w, q, importance)`: one number. It is least squares: set the derivative by s to zero."
    ),
    starter='''\
def best_scale(w, q, importance):
    """The s with the smallest sum of importance (w - s q)^2; all three [g]."""
    ...
''',
    answer=best_scale,
    hints=(
        "The derivative by s is -2 times the sum of importance x q x (w - s q).",
        "At zero: the sum of importance x q x w equals s times the sum of importance x q x q.",
        "`(importance * w * q).sum()` over `(importance * q * q).sum()`.",
    ),
    known_wrong=(
        (_unweighted, "unweighted"),
        (_squared, "squared"),
        (_inverse, "inverse"),
        (_one_side, "one side"),
        (_absmax, "absmax"),
        (_mean_ratio, "mean ratio"),
        (_no_code_above, "no code above"),
    ),
    diagnoses={
        "unweighted": "Right for equal importances. Here each weight's error counts as much as its importance says.",
        "squared": "Your importances are squared; only the error is, (w - s q)^2.",
        "inverse": "You divided by the importance: the most important weights count least now.",
        "one side": "The importance is missing in the sum below: importance x q x q.",
        "absmax": "That is what rounding begins with, the largest |w| over 7.5. The codes are fixed now: fit.",
        "mean ratio": "In the mean of w / q a small code counts as much as a large one. Minimize the squares.",
        "no code above": "A q is missing in both sums: that makes the errors' *sum* zero, not their squares small.",
    },
    judge=judge_on_cases(cases, tolerance=1e-4),
)
