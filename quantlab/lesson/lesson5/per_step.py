"""Exercise: tokens a step of speculative decoding."""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases, source
from quantlab.lesson.judging import Case


def per_step(acceptance: float, k: int) -> float:
    """Tokens that one step makes, where each of `k` guesses is right with this chance."""
    return sum(acceptance**i for i in range(k + 1))  # the model's own token, and a guess only if all before are right


def _independent(acceptance: float, k: int) -> float:
    return 1 + acceptance * k


def _no_own(acceptance: float, k: int) -> float:
    return per_step(acceptance, k) - 1


def _all_or_none(acceptance: float, k: int) -> float:
    return 1 + k * acceptance**k


def _one_short(acceptance: float, k: int) -> float:
    return per_step(acceptance, k - 1)


def cases(rng: random.Random) -> list[Case]:
    """A good guesser, a bad one, and chance."""
    return [Case(f"{a:g} of the guesses right, {k} guesses", (a, k), per_step(a, k))
            for a, k in ((0.8, 4), (0.1, rng.randint(2, 8)), (round(rng.uniform(0.3, 0.6), 2), 3))]  # fmt: skip


exercise = Exercise(
    id="lesson5-per-step",
    title="Tokens a step",
    question=(
        "`k` tokens are guessed, each right with chance `acceptance`, whatever came before. A guess is kept only if "
        "**all before it** were right, and the model's own next token always comes on top. Write "
        "`per_step(acceptance, k)`: how many tokens a step makes on average."
    ),
    starter='''\
def per_step(acceptance, k):
    """Tokens that one step makes, where each of `k` guesses is right with this chance."""
    ...
''',
    answer=per_step,
    hints=(
        "The first guess is kept with chance a, the second with chance a x a, the third with a x a x a.",
        "The model's own token is certain: 1 + a + a**2 + ... + a**k.",
        "`sum(acceptance**i for i in range(k + 1))`, or (1 - a^(k+1)) / (1 - a).",
    ),
    known_wrong=(
        (_independent, "each alone"),
        (_no_own, "no own"),
        (_all_or_none, "all or none"),
        (_one_short, "one short"),
    ),
    diagnoses={
        "each alone": "A right guess behind a wrong one is thrown away: its chance is a product.",
        "no own": "The model's own token comes on top of the guesses, in every step.",
        "all or none": "The guesses before the first wrong one are kept.",
        "one short": "There are k guesses and one token of the model: k + 1 terms.",
    },
    judge=judge_on_cases(cases, tolerance=1e-9),
    solution_code=source(per_step),
)
