"""Open exercise: the learner's own prompts, told by two models. How many of the answers stay the same?"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import with_weights
from quantlab.evaluate.side_by_side import SideBySide, side_by_side
from quantlab.formats.catalog import get
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.message import Kind

TOKENS = 40
_MOST = 20  # prompts


@lru_cache(maxsize=16)
def told_twice(fmt: str, prompts: tuple[str, ...], tokens: int = TOKENS) -> tuple[SideBySide, ...]:
    """What the story model says to each prompt, greedily, and what it says with its layers in a format."""
    model, grid = story_model(), get(fmt)
    weights = {f"{name}.weight": grid.quantize(W).dequantize() for name, W in model.layers.items()}
    whole = model.loaded.model
    return tuple(side_by_side((whole, with_weights(whole, weights)), model.loaded.tokenizer, prompts, tokens=tokens))


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Let both models speak, count."""
    if (verdict := incomplete(answer, ("format", "prompts", "same"))) is not None:
        return verdict
    prompts, same = answer["prompts"], answer["same"]
    if (
        not isinstance(prompts, list | tuple)
        or not prompts
        or not all(isinstance(p, str) and p.strip() for p in prompts)
    ):
        return Verdict(Kind.WRONG, ("`prompts` must be a list of texts, none of them empty.",))
    if len(prompts) > _MOST or max(map(len, prompts)) > 1000:
        return Verdict(Kind.WRONG, (f"That is much: at most {_MOST} prompts of 1,000 characters here.",))
    if isinstance(same, bool) or not isinstance(same, int) or not 0 <= same <= len(prompts):
        return Verdict(Kind.WRONG, (exercise.diagnoses["no count"],), "no count")
    try:
        told = told_twice(answer["format"], tuple(prompts))
    except (QuantlabError, ValueError) as error:
        return Verdict(Kind.WRONG, (f"{str(error)[:1].upper()}{str(error)[1:]}.",))
    right = sum(pair.same for pair in told)
    if same == right:
        return Verdict(Kind.PASSED, (_praise(told),))
    key = "too many" if same > right else "too few"
    return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)


def _praise(told: tuple[SideBySide, ...]) -> str:
    parted = [pair.shared for pair in told if not pair.same]
    same = len(told) - len(parted)
    if not parted:
        return f"All {len(told)} stay the same, word for word."
    return f"{same} of {len(told)} stay the same; the others part after {min(parted)} to {max(parted)} tokens."


_PROMPTS = ("Once upon a time, there was a little girl", "The dog ran to the", "One day, Tom found a red ball")


def _mine(same: Any, fmt: str = "int4_g128") -> dict[str, Any]:
    return {"format": fmt, "prompts": list(_PROMPTS), "same": same}


_LISTED = "".join(f'        "{prompt}",\n' for prompt in _PROMPTS)
_STARTER = f"""\
mine = {{
    "format": "int4_g128",
    "prompts": [  # yours: the beginnings of stories
{_LISTED}    ],
    "same": ...,  # how many answers stay the same, word for word?
}}
"""

exercise = Exercise(
    id="lesson4-own-prompts",
    title="Your own prompts, told twice",
    question=(
        "Write the beginnings of a few stories. The story model goes on from each of them, always with the likeliest "
        f"word, {TOKENS} tokens long; then the model in a format of your choice does. How many of the answers are the "
        "same, **word for word**? Put the number under `same`."
    ),
    starter=_STARTER,
    answer=_mine(0),
    hints=(
        "`told_twice(fmt, prompts)` from `quantlab.lesson.lesson4.own_prompts` returns one pair for each prompt.",
        "`pair.same` says whether both texts are the same, `pair.shared` after how many tokens they part.",
        "`sum(pair.same for pair in told_twice(mine['format'], tuple(mine['prompts'])))`",
    ),
    known_wrong=(
        (_mine(3), "too many"),
        (_mine(0, "int8"), "too few"),
        (_mine(0.5), "no count"),
    ),
    diagnoses={
        "too many": "Some of these part before the end. Read both to the last word.",
        "too few": "More of them stay the same than that.",
        "no count": "`same` is a whole number: how many of your prompts.",
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  # how", "0,  # how")
    + """\

from quantlab.lesson.lesson4.own_prompts import told_twice

mine["same"] = sum(pair.same for pair in told_twice(mine["format"], tuple(mine["prompts"])))
""",
)
