"""Open exercise: the learner's own traffic, and how many cards it takes at best."""

from __future__ import annotations

import math
import random
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete
from quantlab.lesson.message import Kind
from quantlab.plan.capacity import Capacity, capacity

_ASKED = ("model", "format", "gpu", "requests_a_second", "prompt", "output", "cards")


def of_traffic(answer: dict[str, Any]) -> tuple[Capacity, int]:
    """What one card can do at best, and how many copies of the model the traffic takes."""
    best = capacity(answer["model"], answer["format"], answer["gpu"], answer["prompt"], answer["output"])
    return best, math.ceil(answer["requests_a_second"] / best.requests_per_s)


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Plan the traffic, compare the number of cards."""
    if (verdict := incomplete(answer, _ASKED)) is not None:
        return verdict
    rate, cards = answer["requests_a_second"], answer["cards"]
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1e6:
        return Verdict(Kind.WRONG, (f"`requests_a_second` must be a number above 0, it is {rate!r}.",))
    if isinstance(cards, bool) or not isinstance(cards, int) or cards < 1:
        return Verdict(Kind.WRONG, (exercise.diagnoses["no count"],), "no count")
    try:
        best, right = of_traffic(answer)
    except (QuantlabError, ValueError, TypeError) as error:
        return Verdict(Kind.WRONG, (f"{str(error)[:1].upper()}{str(error)[1:]}.",))
    if cards == right:
        return Verdict(Kind.PASSED, (_praise(best, right),))
    key = "too many" if cards > right else "too few"
    return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)


def _praise(best: Capacity, cards: int) -> str:
    price = f", ${best.usd_per_million:.2f} a million written tokens" if best.usd_per_million else ""
    return (
        f"{cards}, at best: one card holds {best.at_once} texts at once and finishes {best.requests_per_s:.2g} "
        f"requests a second, each with {best.tokens_per_s_each:.0f} tokens/s{price}. A load test will find less."
    )


def _mine(cards: Any) -> dict[str, Any]:
    return {"model": "qwen3-8b", "format": "awq_int4_g128", "gpu": "l4", "requests_a_second": 5, "prompt": 1000,
            "output": 300, "cards": cards}  # fmt: skip


_RIGHT = of_traffic(_mine(1))[1]
_STARTER = """\
mine = {
    "model": "qwen3-8b",  # yours: any name of `quantlab plan`, a folder, or a config.json
    "format": "awq_int4_g128",
    "gpu": "l4",
    "requests_a_second": 5,
    "prompt": 1000,  # tokens of a request
    "output": 300,  # tokens of its answer
    "cards": ...,  # how many cards, each with a copy of the model?
}
"""

exercise = Exercise(
    id="lesson5-own-traffic",
    title="Your own traffic",
    question=(
        "Your model, your card, your requests. How many cards with a copy of the model each does it take, **at best**: "
        "every slot full, no request waiting? Put the number under `cards`."
    ),
    starter=_STARTER,
    answer=_mine(_RIGHT),
    hints=(
        "`capacity(model, format, gpu, prompt, output)` of `quantlab.plan.capacity` is what one card does at best.",
        "Its `requests_per_s` are the requests that one card finishes each second.",
        "`math.ceil(requests_a_second / requests_per_s)`",
    ),
    known_wrong=((_mine(_RIGHT + 1), "too many"), (_mine(_RIGHT - 1), "too few"), (_mine(0.5), "no count")),
    diagnoses={
        "too many": "Fewer do, at best. (Real cards do less than the roof; but the question is the least.)",
        "too few": "So few cannot finish as many requests as arrive: the queue would grow without end.",
        "no count": "`cards` is a whole number, from 1.",
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  # how", "1,  # how")
    + """\

import math

from quantlab.plan.capacity import capacity

best = capacity(mine["model"], mine["format"], mine["gpu"], mine["prompt"], mine["output"])
mine["cards"] = math.ceil(mine["requests_a_second"] / best.requests_per_s)
""",
)
