"""Drill: an FP32 model whose published size has the scales of a 4-bit file in it.

Published in MIT's course 6.5940 (EfficientML), lab 4: `get_model_size(model, data_width=32, group_size=128)` prints
"model size: 5043.73 MiB" for OPT-1.3B in FP32, where it adds 20 bits for every 128 weights that have neither scale nor
zero point. Its figure for 3 bits, 495.06 MiB, has them rightly.
"""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case

OPT_1_3B = 1_315_758_080  # parameters of facebook/opt-1.3b, its tied output head counted once


def size_mib(parameters: int, bits: int, group: int) -> float:
    """MiB of a model; below 16 bits, every `group` weights share a 16-bit scale and a 4-bit zero point."""
    each = bits + (16 + 4) / group if bits < 16 else bits
    return parameters * each / 8 / 2**20


def _published(parameters: int, bits: int, group: int) -> float:
    return parameters * (bits + 20 / group) / 8 / 2**20


def _never(parameters: int, bits: int, group: int) -> float:
    return parameters * bits / 8 / 2**20


def _no_zero_point(parameters: int, bits: int, group: int) -> float:
    return parameters * (bits + (16 / group if bits < 16 else 0)) / 8 / 2**20


def _megabytes(parameters: int, bits: int, group: int) -> float:
    return size_mib(parameters, bits, group) * 2**20 / 1e6


def _bits(parameters: int, bits: int, group: int) -> float:
    return size_mib(parameters, bits, group) * 8


def _exchanged(parameters: int, bits: int, group: int) -> float:
    return parameters * (bits + (20 / group if bits >= 16 else 0)) / 8 / 2**20


def cases(rng: random.Random) -> list[Case]:
    """OPT-1.3B as the lab has it, in FP32 and in 3 bits (495.06, printed rightly); then made ones, group by group."""
    found = [
        Case("OPT-1.3B in FP32", (OPT_1_3B, 32, 128), OPT_1_3B * 4 / 2**20),
        Case("OPT-1.3B in 3 bits", (OPT_1_3B, 3, 128), OPT_1_3B // 128 * (128 * 3 + 20) / 8 / 2**20),
    ]
    for at in range(6):
        group, groups, bits = rng.choice((32, 64, 128)), rng.randint(10**5, 10**7), (2, 4, 16, 32, 3, 16)[at]
        in_a_group = group * bits + (20 if bits < 16 else 0)
        found.append(Case(f"a random model ({at + 1})", (group * groups, bits, group), groups * in_a_group / 8 / 2**20))
    return found


exercise = Exercise(
    id="lesson1-group-scales",
    title="A wrong number: 5043.73 MiB of FP32",
    question=(
        "MIT's lab 4 prints 5043.73 MiB for OPT-1.3B in FP32. It has 1,315,758,080 parameters, of 4 bytes each. The "
        "lab's function:\n\n"
        "```python\n"
        "def size_mib(parameters, bits, group):\n"
        "    return parameters * (bits + (16 + 4) / group) / 8 / 2**20\n"
        "```\n\n"
        "For 3 bits it prints 495.06 MiB, which is right. Mend it: weights of 16 bits and more are stored as they are; "
        "below 16 bits, every `group` weights share a scale (16 bits) and a zero point (4 bits)."
    ),
    starter='''\
def size_mib(parameters, bits, group):
    """MiB of a model of so many parameters."""
    ...
''',
    answer=size_mib,
    hints=(
        "Reckon 1,315,758,080 x 4 / 2^20, and look at the difference to what was printed.",
        "The difference is 20 bits for every 128 weights. Which models have these 20 bits?",
        "`bits + 20 / group` below 16 bits, `bits` from 16 on.",
    ),
    known_wrong=(
        (_published, "published"),
        (_never, "never"),
        (_no_zero_point, "no zero point"),
        (_megabytes, "megabytes"),
        (_bits, "bits"),
        (_exchanged, "exchanged"),
    ),
    diagnoses={
        "published": "That is what was published: FP32 weights are charged with scales that they do not have.",
        "never": "Now FP32 is right, and the 3-bit file has lost its scales and zero points: it has 20 bits a group.",
        "no zero point": "The zero points are missing: 4 bits for each group, beside the 16 of its scale.",
        "megabytes": "Those are MB of 10^6 bytes. A MiB has 2^20.",
        "bits": "8 times too much: those are bits, in units of 2^20.",
        "exchanged": "The other way round: it is the files of few bits that have scales.",
    },
    judge=judge_on_cases(cases),
)
