"""Exercise: the number that an FP8 byte means. The check compares with torch's float8_e4m3fn."""

from __future__ import annotations

import random

import torch

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case


def e4m3(byte: int) -> float:
    """The number that the byte seee emmm stands for."""
    sign, exponent, mantissa = byte >> 7, (byte >> 3) & 15, byte & 7
    hidden = 1 if exponent > 0 else 0
    size = (hidden + mantissa / 8) * 2.0 ** (max(exponent, 1) - 7)
    return -size if sign else size


def _parts(byte: int) -> tuple[int, int, int]:
    return -1 if byte >> 7 else 1, (byte >> 3) & 15, byte & 7


def _no_subnormals(byte: int) -> float:
    sign, exponent, mantissa = _parts(byte)
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def _no_hidden_one(byte: int) -> float:
    sign, exponent, mantissa = _parts(byte)
    return sign * mantissa / 8 * 2.0 ** (max(exponent, 1) - 7)


def _bias_8(byte: int) -> float:
    sign, exponent, mantissa = _parts(byte)
    return sign * (mantissa / 8 * 2**-7 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 8))


def _no_sign(byte: int) -> float:
    return abs(e4m3(byte))


def _e5m2(byte: int) -> float:
    sign, exponent, mantissa = -1 if byte >> 7 else 1, (byte >> 2) & 31, byte & 3
    return sign * (mantissa / 4 * 2**-14 if exponent == 0 else (1 + mantissa / 4) * 2.0 ** (exponent - 15))


def _subnormal_bias(byte: int) -> float:
    sign, exponent, mantissa = _parts(byte)
    return sign * (mantissa / 8 * 2**-7 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def cases(rng: random.Random) -> list[Case]:
    """The corners, then random bytes; 0 and the two NaNs are left out."""
    named = (0b0_0111_000, 0b0_1111_110, 0b0_0000_001, 0b1_0000_101, 0b1_0110_011)
    random_ones = rng.sample([byte for byte in range(256) if byte & 127 not in (0, 127)], 8)
    return [_case(f"0b{byte >> 7}_{(byte >> 3) & 15:04b}_{byte & 7:03b}", byte) for byte in (*named, *random_ones)]


def _case(name: str, byte: int) -> Case:
    value = torch.tensor([byte], dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    return Case(name, (byte,), value.item())


exercise = Exercise(
    id="lesson2-e4m3",
    title="The number in an FP8 byte",
    question=(
        "E4M3 splits a byte into 1 sign bit, 4 exponent bits and 3 mantissa bits, from the left: `s eeee mmm`. The "
        "number is ±(1 + m/8) x 2^(e - 7). Where e is 0 there is no hidden 1, so that the numbers reach down to zero "
        "in even steps: ±(m/8) x 2^-6. Write `e4m3(byte)` for a byte from 0 to 255 that is not NaN."
    ),
    starter='''\
def e4m3(byte):
    """The number that the byte s eeee mmm stands for."""
    ...
''',
    answer=e4m3,
    hints=(
        "`byte >> 7` is the sign, `byte & 7` the mantissa. How do you get the four bits between?",
        "`(byte >> 3) & 15` is the exponent e. Is it 0? Then there is no hidden 1.",
        "0b0_0111_000 is 1.0, 0b0_1111_110 is 448, 0b0_0000_001 is 2^-9.",
    ),
    known_wrong=(
        (_no_subnormals, "no subnormals"),
        (_no_hidden_one, "no hidden one"),
        (_bias_8, "bias 8"),
        (_no_sign, "no sign"),
        (_e5m2, "e5m2"),
        (_subnormal_bias, "subnormal bias"),
    ),
    diagnoses={
        "no subnormals": "Right, except where the exponent is 0: there the hidden 1 is missing, and the power is 2^-6.",
        "no hidden one": "The 1 before the fraction is missing: (1 + m/8), but where the exponent is 0.",
        "bias 8": "Exactly half: the exponent counts from 7, not from 8.",
        "no sign": "The first bit is the sign: from 128 on, the numbers are negative.",
        "e5m2": "That is E5M2, FP8's other kind: 5 exponent bits and 2 of mantissa. E4M3 has 4 and 3.",
        "subnormal bias": "Where the exponent is 0 the power is 2^-6, as for an exponent of 1: else there is a gap.",
    },
    judge=judge_on_cases(cases),
)
