"""Open exercise: calibrate on text of the learner's own, and say whether the difference is real."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete
from quantlab.lesson.lesson2.story import difference
from quantlab.lesson.lesson3.calibrations import own
from quantlab.lesson.lesson3.contest import Entry, enter
from quantlab.lesson.message import Kind, number

FMT = "int3_g128"
SURE = 2  # standard errors
OUTCOMES = ("better", "no difference", "worse", "worse than rounding")
_LONGEST = 200_000  # characters


@lru_cache(maxsize=16)
def outcome(texts: tuple[str, ...]) -> tuple[str, Entry, Entry, Entry]:
    """Which of OUTCOMES it is, and the three runs: GPTQ on these texts, GPTQ on stories, round to nearest."""
    mine, theirs, plain = enter("gptq", FMT, own(list(texts))), enter("gptq", FMT), enter("rtn", FMT)
    to_plain, to_theirs = difference(mine.quality, plain.quality), difference(mine.quality, theirs.quality)
    if to_plain[0] > SURE * to_plain[1]:
        return "worse than rounding", mine, theirs, plain
    if abs(to_theirs[0]) <= SURE * to_theirs[1]:
        return "no difference", mine, theirs, plain
    return ("worse" if to_theirs[0] > 0 else "better"), mine, theirs, plain


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Calibrate, measure, compare."""
    if (verdict := incomplete(answer, ("texts", "outcome"))) is not None:
        return verdict
    texts, given = answer["texts"], answer["outcome"]
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        return Verdict(Kind.WRONG, ("`texts` must be a list of texts, none of them empty.",))
    if sum(map(len, texts)) > _LONGEST:
        return Verdict(Kind.WRONG, (f"That is much text: at most {_LONGEST:,} characters here.",))
    if given not in OUTCOMES:
        return Verdict(Kind.WRONG, (f"`outcome` is one of {', '.join(map(repr, OUTCOMES))}.",))
    try:
        right, mine, theirs, plain = outcome(tuple(texts))
    except (QuantlabError, ValueError) as error:
        return Verdict(Kind.WRONG, (f"{str(error)[:1].upper()}{str(error)[1:]}.",))
    if given == right:
        return Verdict(Kind.PASSED, (_praise(right, mine, theirs, plain),))
    if given == OUTCOMES[-1]:
        return Verdict(
            Kind.WRONG, ("It is not: even so GPTQ does no more damage than rounding that looks at nothing.",)
        )
    return Verdict(Kind.WRONG, (exercise.diagnoses[given],), given)


def _praise(right: str, mine: Entry, theirs: Entry, plain: Entry) -> str:
    off = difference(mine.quality, theirs.quality)
    return (
        f"KL divergence: {mine.kl} on your text, {theirs.kl} on stories ({number(off[0])} ± {number(off[1])} apart), "
        f"{plain.kl} by rounding to nearest: {right}."
    )


_TEXT = "The committee shall submit its report, together with the audited accounts, before the end of the quarter."


def _mine(outcome: str) -> dict[str, Any]:
    return {"texts": [_TEXT], "outcome": outcome}


_HALF = _TEXT.index("accounts")  # where the starter breaks its line
_STARTER = f'''\
mine = {{
    "texts": [  # yours: as much, and of the kind, that you like
        "{_TEXT[:_HALF]}"
        "{_TEXT[_HALF:]}"
    ],
    "outcome": ...,  # "better", "no difference", "worse" or "worse than rounding"
}}
'''

exercise = Exercise(
    id="lesson3-own-text",
    title="Your own calibration text",
    question=(
        "Give GPTQ text of your own to look at (the story model, 3 bits, groups of 128), and compare its KL divergence "
        'on new stories with that of GPTQ calibrated on sixteen stories. Is yours "better", is there "no '
        'difference" beyond two standard errors, is it "worse", or even "worse than rounding" to nearest without '
        "looking at anything? **Say what you expect before you measure.**"
    ),
    starter=_STARTER,
    answer=_mine("worse than rounding"),
    hints=(
        "`enter('gptq', 'int3_g128', own(mine['texts']))` quantizes and measures; `own` is in "
        "`quantlab.lesson.lesson3.calibrations`, `enter` in `quantlab.lesson.lesson3.contest`.",
        "`enter('gptq', 'int3_g128')` is the one on stories, `enter('rtn', 'int3_g128')` the rounding.",
        "`difference(mine.quality, theirs.quality)` from lesson 2's story: the mean and its standard error, paired.",
    ),
    known_wrong=(
        (_mine("better"), "better"),
        (_mine("no difference"), "no difference"),
        (_mine("worse"), "worse"),
    ),
    diagnoses={
        "better": "Calibrated on stories it is at least as good, within two standard errors of the difference.",
        "no difference": "There is one: more than two standard errors, paired token by token.",
        "worse": "Worse than on stories, but how much? Compare with plain rounding as well, which looks at nothing.",
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  #", '"",  #')
    + """\

from quantlab.lesson.lesson3.own_text import outcome

mine["outcome"] = outcome(tuple(mine["texts"]))[0]
""",
)
