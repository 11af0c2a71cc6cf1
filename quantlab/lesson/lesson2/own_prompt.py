"""Open exercise: how few bits leave the next word of the learner's own prompt as it was."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from itertools import takewhile
from typing import Any

from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.message import Kind

WIDTHS = (8, 7, 6, 5, 4, 3, 2)
_LONGEST = 2000  # characters of a prompt


@lru_cache(maxsize=64)
def next_words(prompt: str) -> tuple[str, dict[int, str]]:
    """The most likely next token with all bits, and with each width, every layer rounded in groups of 128."""
    model = story_model()
    return model.next_word(prompt), {bits: model.next_word(prompt, model.rounded(bits)) for bits in WIDTHS}


def fewest_bits(whole: str, words: Mapping[int, str]) -> int | None:
    """Going down from 8 bits, the last width before the word changes; None when it changes at 8."""
    kept = [*takewhile(lambda bits: words[bits] == whole, WIDTHS)]
    return kept[-1] if kept else None


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Compare with what the story model says."""
    if (verdict := incomplete(answer, ("prompt", "bits"))) is not None:
        return verdict
    prompt, bits = answer["prompt"], answer["bits"]
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > _LONGEST:
        return Verdict(Kind.WRONG, (f"`prompt` must be a text of 1 to {_LONGEST:,} characters.",))
    if isinstance(bits, bool) or bits not in WIDTHS:
        return Verdict(Kind.WRONG, (exercise.diagnoses["no width"],), "no width")
    whole, words = next_words(prompt)
    right = fewest_bits(whole, words)
    if right is None:
        said = f"The next word changes at 8 bits already ({whole!r}, then {words[8]!r}): a coin's toss"
        return Verdict(Kind.WRONG, (f"{said}. Choose another prompt.",))
    if bits == right:
        return Verdict(Kind.PASSED, (_praise(right, whole, words),))
    key = "not the fewest" if bits > right else "luck" if words[bits] == whole else "changed"
    return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)


def _praise(right: int, whole: str, words: Mapping[int, str]) -> str:
    if right == WIDTHS[-1]:
        return f"Down to 2 bits the model goes on with {whole!r}: this word is very sure."
    return f"At {right} bits the model still goes on with {whole!r}, at {right - 1} with {words[right - 1]!r}."


def _mine(bits: int, prompt: str = "The dog ran to the") -> dict[str, Any]:
    return {"prompt": prompt, "bits": bits}


_STARTER = """\
mine = {
    "prompt": "The dog ran to the",  # the beginning of a story of yours
    "bits": ...,  # your number: 8, 7, 6, 5, 4, 3 or 2
}
"""
_LUCKY = "Tom and Mary went to the"

exercise = Exercise(
    id="lesson2-own-prompt",
    title="A prompt of your own",
    question=(
        "Write the beginning of a story. With 16 bits the story model goes on with some word. Round all its layers to "
        "8 bits, 7, 6, and so on down to 2 (groups of 128, symmetric): what is the last width **before** the next word "
        "changes? Put it under `bits`."
    ),
    starter=_STARTER,
    answer=_mine(4),
    hints=(
        "`model = story_model()` from `quantlab.lesson.lesson2.story`; `model.next_word(prompt)` is the word.",
        "`model.next_word(prompt, model.rounded(4))` is the word at 4 bits.",
        "Go down from 8 and stop at the first change. A word that comes back further down came back by luck.",
    ),
    known_wrong=(
        (_mine(5), "not the fewest"),
        (_mine(3), "changed"),
        (_mine(4, _LUCKY), "luck"),
        (_mine(16), "no width"),
    ),
    diagnoses={
        "not the fewest": "True, the word is still the same there. It is the same with fewer bits too: go on down.",
        "changed": "At that width the model goes on with another word.",
        "luck": (
            "At that width the word is the same again, but with more bits it had changed: it came back by luck. Stop "
            "at the first change."
        ),
        "no width": "`bits` is one of 8, 7, 6, 5, 4, 3, 2: a width that the layers are rounded to.",
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  # your number", "0,  # your number")
    + """\

from quantlab.lesson.lesson2.own_prompt import fewest_bits, next_words

mine["bits"] = fewest_bits(*next_words(mine["prompt"]))
""",
)
