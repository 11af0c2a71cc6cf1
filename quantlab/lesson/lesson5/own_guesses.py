"""Open exercise: the learner's own prompts, and how many n-gram guesses the model keeps on them."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.message import Kind
from quantlab.serve.speculation import Speculated, ngram_draft, speculate

TOKENS, K = 48, 4
_MOST = 20  # prompts


@lru_cache(maxsize=64)
def guessed_on(prompt: str) -> Speculated:
    """The story model goes on from a prompt, 48 tokens, with four n-gram guesses a step."""
    loaded = story_model().loaded
    return speculate(loaded.model, loaded.tokenizer(prompt)["input_ids"], TOKENS, ngram_draft, K)


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Speculate on each prompt, count what was kept."""
    if (verdict := incomplete(answer, ("prompts", "kept"))) is not None:
        return verdict
    prompts, kept = answer["prompts"], answer["kept"]
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
        return Verdict(Kind.WRONG, ("`prompts` must be a list of texts, none of them empty.",))
    if len(prompts) > _MOST or max(map(len, prompts)) > 1000:
        return Verdict(Kind.WRONG, (f"That is much: at most {_MOST} prompts of 1,000 characters here.",))
    if isinstance(kept, bool) or not isinstance(kept, int) or kept < 0:
        return Verdict(Kind.WRONG, (exercise.diagnoses["no count"],), "no count")
    found = [guessed_on(prompt) for prompt in prompts]
    right, guessed = sum(one.right for one in found), sum(one.guessed for one in found)
    if kept == right:
        best = max(found, key=lambda one: one.tokens_per_step)
        return Verdict(Kind.PASSED, (
            f"{right} of {guessed} guesses. The best prompt made {best.tokens_per_step:.2f} tokens a step, "
            f"the worst {min(one.tokens_per_step for one in found):.2f}.",))  # fmt: skip
    key = "too many" if kept > right else "too few"
    return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)


_PROMPTS = ("Once upon a time, there was a little girl", "The cat sat. The dog sat. The cat sat. The dog sat. The")


def _mine(kept: Any) -> dict[str, Any]:
    return {"prompts": list(_PROMPTS), "kept": kept}


_LISTED = "".join(f'        "{prompt}",\n' for prompt in _PROMPTS)
_STARTER = f"""\
mine = {{
    "prompts": [  # yours: one where guesses from the text itself are good, one where they are not
{_LISTED}    ],
    "kept": ...,  # how many guesses the model keeps, on all of them together
}}
"""
_SOLUTION = """\

from quantlab.lesson.lesson5.own_guesses import guessed_on

mine["kept"] = sum(guessed_on(prompt).right for prompt in mine["prompts"])
"""


exercise = Exercise(
    id="lesson5-own-guesses",
    title="Your own prompts, guessed",
    question=(
        f"Write a few prompts. The story model goes on by {TOKENS} tokens, and in every step up to {K} tokens are "
        "guessed from the text itself (n-grams). How many guesses does it keep, on all prompts together? Find a prompt "
        "on which guessing pays, and one on which it does not. Put the number under `kept`."
    ),
    starter=_STARTER,
    answer=_mine(33),  # greedy, so that every machine keeps as many: 1 and 32
    hints=(
        "`guessed_on(prompt)` from `quantlab.lesson.lesson5.own_guesses` speculates on one prompt.",
        "`.right` are the guesses that were kept, `.guessed` all of them.",
        "`sum(guessed_on(prompt).right for prompt in mine['prompts'])`",
    ),
    known_wrong=((_mine(10_000), "too many"), (_mine(0), "too few"), (_mine(0.5), "no count")),
    diagnoses={
        "too many": "It keeps fewer than that.",
        "too few": "It keeps more than that.",
        "no count": "`kept` is a whole number, from 0.",
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  # how", "0,  # how") + _SOLUTION,
)
