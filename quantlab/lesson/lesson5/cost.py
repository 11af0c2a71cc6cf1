"""Exercise: dollars a million tokens, of a server that is not always busy."""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases, source
from quantlab.lesson.judging import Case


def dollars(per_hour: float, tokens_per_s: float, busy: float) -> float:
    """Cost of a million tokens on a card that makes tokens_per_s for a share `busy` of the hours it is paid for."""
    tokens_per_hour = tokens_per_s * 3600 * busy
    return per_hour / tokens_per_hour * 1e6


def _always(per_hour: float, tokens_per_s: float, busy: float) -> float:
    return dollars(per_hour, tokens_per_s, 1)


def _discount(per_hour: float, tokens_per_s: float, busy: float) -> float:
    return dollars(per_hour, tokens_per_s, 1) * busy


def _minutes(per_hour: float, tokens_per_s: float, busy: float) -> float:
    return 60 * dollars(per_hour, tokens_per_s, busy)


def _one_token(per_hour: float, tokens_per_s: float, busy: float) -> float:
    return dollars(per_hour, tokens_per_s, busy) / 1e6


def cases(rng: random.Random) -> list[Case]:
    """Two rows of a published table, the second half idle, and a quiet server."""
    rows = ((3.28, 1200.0, 1.0), (1.64, 1800.0, 0.5), (round(rng.uniform(1, 4), 2), 2400.0, 0.05))
    return [Case(f"${hour:g} an hour, {speed:,.0f} tokens/s, busy {busy:.0%} of the time", (hour, speed, busy),
                 dollars(hour, speed, busy)) for hour, speed, busy in rows]  # fmt: skip


exercise = Exercise(
    id="lesson5-cost",
    title="A million tokens",
    question=(
        "A card costs `per_hour` dollars an hour, busy or not. While it is busy it makes `tokens_per_s` (of all texts "
        "together). It is busy for a share `busy` of the time, from 0 to 1. Write "
        "`dollars(per_hour, tokens_per_s, busy)`: what a million tokens cost."
    ),
    starter='''\
def dollars(per_hour, tokens_per_s, busy):
    """Cost of a million tokens."""
    ...
''',
    answer=dollars,
    hints=(
        "How many tokens does an hour bring? 3,600 seconds, of which it works for a share.",
        "`tokens_per_s * 3600 * busy` tokens cost `per_hour` dollars.",
        "Divide, and multiply by 1e6.",
    ),
    known_wrong=((_always, "never idle"), (_discount, "cheaper"), (_minutes, "minutes"), (_one_token, "one token")),
    diagnoses={
        "never idle": "Published costs assume that; an idle card is paid for too. Divide by `busy`.",
        "cheaper": "The less it works, the dearer each token: divide by `busy`.",
        "minutes": "An hour has 3,600 seconds.",
        "one token": "That is one token. The question is a million.",
    },
    judge=judge_on_cases(cases, tolerance=1e-9),
    solution_code=source(dollars),
)
