"""Exercise: Little's law, and whether the memory holds what it asks for."""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases, source
from quantlab.lesson.judging import Case


def in_flight(rate: float, ttft: float, tokens: int, tpot: float) -> float:
    """Requests under way at once: `rate` a second, each for its first token and the rest of its `tokens`."""
    return rate * (ttft + (tokens - 1) * tpot)


def _no_first(rate: float, ttft: float, tokens: int, tpot: float) -> float:
    return rate * tokens * tpot


def _only_first(rate: float, ttft: float, tokens: int, tpot: float) -> float:
    return rate * ttft


def _twice(rate: float, ttft: float, tokens: int, tpot: float) -> float:
    return rate * (ttft + tokens * tpot)


def _per_rate(rate: float, ttft: float, tokens: int, tpot: float) -> float:
    return (ttft + (tokens - 1) * tpot) / rate


def cases(rng: random.Random) -> list[Case]:
    """A chat, a long report, and short answers at a high rate."""
    rows = ((2.0, 0.4, 250, 0.03), (0.1, 3.0, 4000, 0.05), (50.0, 0.2, rng.randint(3, 8), 0.02))
    return [Case(f"{rate:g} a second, first token after {ttft:g} s, {n} tokens, {tpot:g} s each",
                 (rate, ttft, n, tpot), in_flight(rate, ttft, n, tpot)) for rate, ttft, n, tpot in rows]  # fmt: skip


exercise = Exercise(
    id="lesson5-in-flight",
    title="How many at once?",
    question=(
        "Little's law: **requests under way = arrivals a second x seconds that each stays**. A request waits `ttft` "
        "seconds for its first token, then `tpot` for each further one of its `tokens`. Write "
        "`in_flight(rate, ttft, tokens, tpot)`."
    ),
    starter='''\
def in_flight(rate, ttft, tokens, tpot):
    """Requests under way at once."""
    ...
''',
    answer=in_flight,
    hints=(
        "How long does one request stay? `ttft`, and `tpot` for each token after the first.",
        "That is `ttft + (tokens - 1) * tpot` seconds.",
        "Times `rate`.",
    ),
    known_wrong=((_no_first, "no wait"), (_only_first, "no answer"), (_twice, "one too many"), (_per_rate, "divided")),
    diagnoses={
        "no wait": "The wait for the first token belongs to the stay as well.",
        "no answer": "After the first token the request stays until its last.",
        "one too many": "The first token came with `ttft`: only `tokens - 1` are left.",
        "divided": "Twice as many arrivals, twice as many at once: multiply.",
    },
    judge=judge_on_cases(cases, tolerance=1e-9),
    solution_code=source(in_flight),
)
