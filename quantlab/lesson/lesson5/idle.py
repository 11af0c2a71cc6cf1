"""Exercise: what a static batch leaves empty."""

from __future__ import annotations

import random
from collections.abc import Sequence

from quantlab.lesson.exercises import Exercise, judge_on_cases, source
from quantlab.lesson.judging import Case


def idle(lengths: Sequence[int]) -> float:
    """Share of a static batch's slots and steps in which nobody's token is made."""
    steps = max(lengths)  # the batch runs until its longest answer ends
    return 1 - sum(lengths) / (steps * len(lengths))


def _busy(lengths: Sequence[int]) -> float:
    return 1 - idle(lengths)


def _shortest(lengths: Sequence[int]) -> float:
    return 1 - min(lengths) / max(lengths)


def _tokens(lengths: Sequence[int]) -> float:
    return float(max(lengths) * len(lengths) - sum(lengths))


def _mean_waits(lengths: Sequence[int]) -> float:
    return max(lengths) / (sum(lengths) / len(lengths)) - 1


def cases(rng: random.Random) -> list[Case]:
    """One long answer among short ones; all alike; a mixture."""
    batches = ([256, *[rng.randint(10, 30) for _ in range(7)]], [64] * 4, [rng.randint(20, 200) for _ in range(16)])
    return [Case(f"answers of {', '.join(map(str, lengths[:4]))}, ... tokens", (lengths,), idle(lengths))
            for lengths in batches]  # fmt: skip


exercise = Exercise(
    id="lesson5-idle",
    title="What a static batch leaves empty",
    question=(
        "A static batch gives every request a slot, and ends when its **longest** answer does. `lengths` are the "
        "tokens of each answer. Each step makes one token in each slot that is not done. Write `idle(lengths)`: the "
        "share of all slots and steps in which no token is made, from 0 to 1."
    ),
    starter='''\
def idle(lengths):
    """Share of a static batch's slots and steps in which nobody's token is made."""
    ...
''',
    answer=idle,
    hints=(
        "The batch runs for `max(lengths)` steps, and has `len(lengths)` slots.",
        "Of `max(lengths) * len(lengths)` places `sum(lengths)` make a token.",
        "`1 - sum(lengths) / (max(lengths) * len(lengths))`",
    ),
    known_wrong=((_busy, "busy"), (_shortest, "shortest"), (_tokens, "count"), (_mean_waits, "over the mean")),
    diagnoses={
        "busy": "That is the share that works. The question is about the rest.",
        "shortest": "The shortest answer says nothing of the others: add up all of them.",
        "count": "That counts the empty places. Divide by all of them.",
        "over the mean": "Divide by the places there are, slots times steps, not by those that worked.",
    },
    judge=judge_on_cases(cases, tolerance=1e-9),
    solution_code=source(idle),
)
