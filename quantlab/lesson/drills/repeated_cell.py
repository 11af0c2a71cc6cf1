"""Drill: a table of perplexities with one cell that repeats the unquantized model's.

Published in llama.cpp's tools/perplexity/README.md, "LLaMA 2 vs. LLaMA 3 Quantization comparison" (revision f364eb6f):
the column of Llama-2-7B in q2_K gives a mean perplexity of 5.794552, which is that of the F16 model; the ratio and the
difference printed below it say 6.420.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import NOT_YET, Verdict, is_untouched, not_a_number
from quantlab.lesson.message import Kind, number

# column -> mean perplexity, its ratio to F16's, its difference from F16's, as printed
TABLE: dict[str, tuple[float, float, float]] = {
    "L2 7b q2_K": (5.794552, 1.107955, 0.625552),
    "L2 7b q4_K_M": (5.877078, 1.014242, 0.082526),
    "L2 7b q6_K": (5.808494, 1.002406, 0.013941),
    "L2 7b q8_0": (5.798542, 1.000689, 0.003990),
    "L3 8b q2_K": (9.751568, 1.564849, 3.519934),
    "L3 8b q4_K_M": (6.407115, 1.028160, 0.175482),
    "L3 8b q6_K": (6.253382, 1.003490, 0.021748),
    "L3 8b q8_0": (6.234284, 1.000425, 0.002650),
}
_CELL = "L2 7b q2_K"
_NEAR = 5e-4  # relative: what rounding of a ratio and of a difference leaves


def unquantized(column: str) -> float:
    """F16's perplexity by this column: its own less its difference.

    >>> [round(unquantized(column), 2) for column in TABLE]
    [5.17, 5.79, 5.79, 5.79, 6.23, 6.23, 6.23, 6.23]
    """
    perplexity, _, difference = TABLE[column]
    return perplexity - difference


def mended() -> float:
    """What the wrong cell must hold: F16's perplexity, by the column's neighbours, times the ratio of its own."""
    return unquantized("L2 7b q8_0") * TABLE[_CELL][1]


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Compare the column and the number that the learner names with what the table's other rows say."""
    if is_untouched(answer):
        return NOT_YET
    if not isinstance(answer, Mapping) or {"column", "perplexity"} - set(answer):
        return Verdict(Kind.WRONG, ("Pass the dictionary `mine` with `column` and `perplexity`.",))
    if is_untouched(answer["column"]) or is_untouched(answer["perplexity"]):
        return NOT_YET
    if answer["column"] not in TABLE:
        return Verdict(Kind.WRONG, (f"`column` is one of {', '.join(TABLE)}.",))
    if reason := not_a_number(answer["perplexity"]):
        return Verdict(Kind.WRONG, (f"`perplexity` is {reason}",))
    if _same(answer, {"column": _CELL, "perplexity": mended()}):
        return Verdict(
            Kind.PASSED, (f"Right: the cell repeats F16's value, and should be {number(round(mended(), 3))}.",)
        )
    for known, key in exercise.known_wrong:
        if _same(answer, known):
            return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)
    if answer["column"] != _CELL:
        return Verdict(Kind.WRONG, ("In that column perplexity, ratio and difference fit together: look at another.",))
    side = "high" if answer["perplexity"] > mended() else "low"
    return Verdict(Kind.WRONG, (f"The column is right; {number(answer['perplexity'])} is too {side}.",))


def _same(answer: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """The same column, and a number so near that both were rounded from one."""
    close = abs(answer["perplexity"] - other["perplexity"]) <= _NEAR * other["perplexity"]
    return bool(answer["column"] == other["column"] and close)


def _mine(column: str, perplexity: float) -> dict[str, Any]:
    return {"column": column, "perplexity": perplexity}


_ROWS = "\n".join(f"| {column} | {p:.6f} | {ratio:.6f} | {gap:.6f} |" for column, (p, ratio, gap) in TABLE.items())
_STARTER = 'mine = {"column": ..., "perplexity": ...}\n'

exercise = Exercise(
    id="lesson4-repeated-cell",
    title="A wrong number: which perplexity is it?",
    question=(
        "From llama.cpp's perplexity README, each column of its table as a row here: the mean perplexity of a "
        "quantized model, its ratio to the F16 model's, and its difference from it.\n\n"
        f"| column | mean PPL | mean PPL ratio | mean \u0394PPL |\n|---|---|---|---|\n{_ROWS}\n\n"
        "One perplexity does not fit its own row. Which, and what should it be?"
    ),
    starter=_STARTER,
    answer=_mine(_CELL, mended()),
    hints=(
        "Every row gives F16's perplexity in two ways: perplexity / ratio, and perplexity - difference.",
        "All four rows of a model must give the same one. Three of Llama-2-7B's do: 5.7946.",
        "Multiply that by the odd row's ratio, or add its difference.",
    ),
    known_wrong=(
        (_mine(_CELL, TABLE[_CELL][0]), "as printed"),
        (_mine(_CELL, TABLE[_CELL][0] / TABLE[_CELL][1]), "divided"),
        (_mine(_CELL, TABLE[_CELL][0] - TABLE[_CELL][2]), "subtracted"),
        (_mine("L3 8b q2_K", TABLE["L3 8b q2_K"][0]), "the largest"),
        (_mine(_CELL, unquantized("L3 8b q8_0") * TABLE[_CELL][1]), "the other model"),
        (_mine(_CELL, unquantized("L2 7b q8_0") * TABLE["L3 8b q2_K"][1]), "the other ratio"),
    ),
    diagnoses={
        "as printed": "The column is right. 5.794552 is what is printed there, and it is F16's own perplexity.",
        "divided": "You divided the printed value by the ratio: but it is F16's already. Multiply.",
        "subtracted": "You subtracted the difference from the printed value: but that is F16's already. Add.",
        "the largest": "9.75 is large, and it fits its row: 2 bits hurt Llama 3 that much. Look at another row.",
        "the other model": "That is Llama 3's F16 perplexity times this ratio. Llama 2 has its own, 5.7946.",
        "the other ratio": "That is Llama 2's F16 perplexity times Llama 3's ratio. Take the row's own.",
    },
    judge=judge,
    solution_code=(
        f"base = {TABLE['L2 7b q8_0'][0]} - {TABLE['L2 7b q8_0'][2]}  # F16, by the row of q8_0\n"
        f'mine = {{"column": "{_CELL}", "perplexity": base * {TABLE[_CELL][1]}}}\n'
    ),
)
