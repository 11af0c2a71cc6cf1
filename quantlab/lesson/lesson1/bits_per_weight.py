"""Exercise: the bits that a weight of a "4-bit" checkpoint really takes. The check compares with the planner."""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.plan.memory import weights_bytes
from quantlab.plan.models import shape_of


def effective_bits(quantized: int, left: int, group: int) -> float:
    """Bits for each parameter of a 4-bit checkpoint with a scale and a zero point for each group."""
    each = 4 + (16 + 4) / group  # the code, and its share of the group's scale and zero point
    return (quantized * each + left * 16) / (quantized + left)


def _four(quantized: int, left: int, group: int) -> float:
    return 4.0


def _no_zero_point(quantized: int, left: int, group: int) -> float:
    return (quantized * (4 + 16 / group) + left * 16) / (quantized + left)


def _no_scale(quantized: int, left: int, group: int) -> float:
    return (quantized * (4 + 4 / group) + left * 16) / (quantized + left)


def _no_group_parameters(quantized: int, left: int, group: int) -> float:
    return (quantized * 4 + left * 16) / (quantized + left)


def _no_embeddings(quantized: int, left: int, group: int) -> float:
    return 4 + 20 / group


def _not_shared(quantized: int, left: int, group: int) -> float:
    return (quantized * (4 + 20) + left * 16) / (quantized + left)


def _plain_mean(quantized: int, left: int, group: int) -> float:
    return (4 + 20 / group + 16) / 2


def _bytes(quantized: int, left: int, group: int) -> float:
    return effective_bits(quantized, left, group) / 8


def cases(rng: random.Random) -> list[Case]:
    """Three real models in AWQ's groups of 128, by the planner; then random ones, counted group by group."""
    found = []
    for name in ("llama-3-70b", "llama-3.1-8b", "qwen3-4b"):
        shape = shape_of(name)
        inside, all_of_it = shape.linear_parameters, shape.parameters
        bits = 8 * weights_bytes(shape, "awq_int4_g128") / all_of_it
        found.append(Case(name, (inside, all_of_it - inside, 128), bits))
    for at in range(5):
        group, groups = rng.choice((16, 32, 64, 128)), rng.randint(10**5, 10**7)
        left = int(group * groups * rng.uniform(0.03, 0.4))
        quantized, all_bits = groups * group, groups * (4 * group + 16 + 4) + 16 * left
        found.append(Case(f"a random checkpoint ({at + 1})", (quantized, left, group), all_bits / (quantized + left)))
    return found


exercise = Exercise(
    id="lesson1-bits-per-weight",
    title="How many bits are 4 bits?",
    question=(
        "An AWQ checkpoint stores each quantized weight as a 4-bit code. Every **group** of weights also has one scale "
        "(fp16, 16 bits) and one zero point (4 bits). Embeddings, output head and norms are **left** in 16 bits. Write "
        "`effective_bits(quantized, left, group)`: the bits that a parameter of the whole file takes on average, when "
        "`quantized` weights have 4-bit codes in groups of `group`, and `left` parameters keep their 16 bits."
    ),
    starter='''\
def effective_bits(quantized, left, group):
    """Bits for each parameter of a 4-bit checkpoint with a scale and a zero point for each group."""
    ...
''',
    answer=effective_bits,
    hints=(
        "Add up all the bits of the file, then divide by the number of parameters.",
        "A scale and a zero point are 20 bits, shared by the `group` weights: 20 / group for each of them.",
        "`quantized` weights take 4 + 20 / group bits each, `left` parameters 16: their weighted mean is the answer.",
    ),
    known_wrong=(
        (_four, "four"),
        (_no_zero_point, "no zero point"),
        (_no_scale, "no scale"),
        (_no_group_parameters, "no scale, no zero point"),
        (_no_embeddings, "no embeddings"),
        (_not_shared, "not shared"),
        (_plain_mean, "plain mean"),
        (_bytes, "bytes"),
    ),
    diagnoses={
        "four": (
            "4.0 is the width of a code. The scales, the zero points and all that is left in 16 bits are in the file "
            "too: that is why 70B in 4 bits takes about 40 GB, not 35."
        ),
        "no zero point": "The zero points are missing: 4 bits for each group, beside the 16 of its scale.",
        "no scale": "The scales are missing: 16 bits for each group, beside the 4 of its zero point.",
        "no scale, no zero point": "Scales and zero points are missing: 16 + 4 bits for each group of weights.",
        "no embeddings": (
            "That is right for the quantized weights alone. The `left` parameters (embeddings, output head, norms) "
            "take 16 bits each, and count in the average."
        ),
        "not shared": "You gave every weight its own scale and zero point. One of each serves `group` weights.",
        "plain mean": "You took the mean of two widths. Weigh each by how many parameters have it.",
        "bytes": "Those are bytes for each parameter; the question asks for bits, 8 times as many.",
    },
    judge=judge_on_cases(cases, tolerance=1e-3),  # a result rounded to two decimals is right
)
