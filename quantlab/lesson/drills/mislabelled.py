"""Drill: which unit does a published figure really have?

All six lines are printed as they were published. The parameters tell the unit: a "GB" of vLLM's log was a GiB until it
was renamed, as was the one in Hugging Face's table for Llama 3.1; llama.cpp's README keeps the two apart.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import NOT_YET, Verdict, is_untouched
from quantlab.lesson.message import Kind

UNITS = {"GB": 10**9, "GiB": 2**30}

# what it is -> (printed number, printed unit, bytes by its own parameters); sources in SOURCES
PRINTED: dict[str, tuple[float, str, float]] = {
    "llama.cpp: Llama-3.1-8B, F16": (14.96, "GiB", 8_030_261_248 * 16.0005 / 8),
    "llama.cpp: Llama-3.1-8B, original": (32.1, "GB", 8_030_261_248 * 4),
    "llama.cpp: Llama-3.1-8B, Q4_K_M": (4.58, "GiB", 8_030_261_248 * 4.8944 / 8),
    "vLLM's log of 2024: Llama-2-7B, fp16": (12.5562, "GB", 6_738_415_616 * 2),
    "Hugging Face: KV cache of Llama-3.1-8B, 128,000 tokens": (15.62, "GB", 128_000 * 128 * 1024),
    "Hugging Face: KV cache of Llama-3.1-70B, 128,000 tokens": (39.06, "GB", 128_000 * 320 * 1024),
}
SOURCES = (
    "github.com/ggml-org/llama.cpp, tools/quantize/README.md; vllm-project/vllm pull request 6234; "
    "huggingface.co/blog/llama31"
)


def real_units() -> dict[str, str]:
    """The unit that each printed number really has: the one in which it comes nearest to its bytes.

    >>> real_units()["vLLM's log of 2024: Llama-2-7B, fp16"]
    'GiB'
    """
    return {
        line: min(UNITS, key=lambda unit: abs(number * UNITS[unit] - nbytes))
        for line, (number, _, nbytes) in PRINTED.items()
    }


def _only_mislabelled(exchange: bool) -> dict[str, str]:
    other = {"GB": "GiB", "GiB": "GB"}
    return {line: other[unit] if exchange else unit for line, (_, unit, _) in PRINTED.items()}


def _without(word: str) -> dict[str, str]:
    """Right, but for the lines with this word, which stay as printed."""
    return {line: PRINTED[line][1] if word in line else unit for line, unit in real_units().items()}


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Compare the learner's unit for each line with what the line's parameters say."""
    if is_untouched(answer) or (isinstance(answer, Mapping) and any(is_untouched(unit) for unit in answer.values())):
        return NOT_YET
    if not isinstance(answer, Mapping) or set(answer) != set(PRINTED):
        return Verdict(Kind.WRONG, ("Pass the dictionary `mine` with its six lines.",))
    if strange := [unit for unit in answer.values() if unit not in UNITS]:
        return Verdict(Kind.WRONG, (f"Each unit is 'GB' or 'GiB', and one of yours is {strange[0]!r}.",))
    right = real_units()
    if dict(answer) == right:
        wrong = sum(right[line] != unit for line, (_, unit, _) in PRINTED.items())
        return Verdict(Kind.PASSED, (f"Right: {wrong} of the {len(right)} lines say GB and hold GiB.",))
    for known, key in exercise.known_wrong:
        if dict(answer) == known:
            return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)
    line = next(line for line in right if answer[line] != right[line])
    number, _, nbytes = PRINTED[line]
    said = f"{line}: its bytes are {nbytes / 1e9:.2f} x 10^9, and {number:g} is printed; is that really {answer[line]}?"
    return Verdict(Kind.WRONG, (said,))


_LINES = "\n".join(f"- {line}: {number:g} {unit}" for line, (number, unit, _) in PRINTED.items())
_STARTER = "mine = {\n" + "".join(f'    "{line}": ...,\n' for line in PRINTED) + "}\n"

exercise = Exercise(
    id="lesson1-mislabelled",
    title="Wrong numbers: GB that are GiB",
    question=(
        f"Six figures, as published ({SOURCES}):\n\n{_LINES}\n\n"
        "Llama-3.1-8B has 8,030,261,248 parameters (its original in FP32; Q4_K_M has 4.8944 bits a weight), Llama-2-7B "
        "6,738,415,616; a token leaves 128 KiB in Llama-3.1-8B's KV cache and 320 KiB in 70B's. Say for each line "
        'which unit its number really has: `"GB"` (10^9 bytes) or `"GiB"` (2^30).'
    ),
    starter=_STARTER,
    answer=real_units(),
    hints=(
        "Reckon the bytes of a line, then divide by 10^9 and by 2^30: which of the two is printed?",
        "6,738,415,616 x 2 bytes are 13.48 x 10^9, or 12.55 x 2^30.",
        "llama.cpp's README is careful with units; the other three lines are not.",
    ),
    known_wrong=(
        (_only_mislabelled(exchange=False), "as printed"),
        (_only_mislabelled(exchange=True), "exchanged"),
        (dict.fromkeys(PRINTED, "GiB"), "all GiB"),
        (dict.fromkeys(PRINTED, "GB"), "all GB"),
        (_without("vLLM"), "not the log"),
        (_without("Hugging Face"), "not the table"),
    ),
    diagnoses={
        "as printed": "That is what is printed, and half of it is wrong. Reckon the bytes of each line.",
        "exchanged": "You exchanged every unit. Some of the lines are right as they stand.",
        "all GiB": "Not every line: 32.1 is 8,030,261,248 x 4 bytes in units of 10^9.",
        "all GB": "Not every line: 14.96 x 10^9 bytes would be 14.9 bits a weight, and F16 has 16.",
        "not the log": "The table is right now. vLLM's log is not: 6,738,415,616 x 2 bytes are 13.48 x 10^9.",
        "not the table": "The log is right now. The table is not: 128,000 x 128 KiB are 16.8 x 10^9 bytes, not 15.6.",
    },
    judge=judge,
    solution_code=(
        f"PRINTED = {PRINTED!r}\n\n"
        "mine = {\n"
        '    line: min(("GB", 10**9), ("GiB", 2**30), key=lambda unit: abs(number * unit[1] - nbytes))[0]\n'
        "    for line, (number, _, nbytes) in PRINTED.items()\n"
        "}\n"
    ),
)
