"""Exercise: the 12 bytes of Q4_K (and Q5_K) that hold 8 scales and 8 minima of 6 bits."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from quantlab.formats.gguf_k_bytes import split_six
from quantlab.lesson.exercises import Exercise, source
from quantlab.lesson.judging_tensors import TensorCase, judge_on_tensors


def six_bits(octets: bytes) -> Tensor:
    """12 bytes -> 8 scales and 8 minima, whole numbers from 0 to 63 [2, 8]."""
    a, b, c = octets[:4], octets[4:8], octets[8:]
    scales = [x & 63 for x in a] + [(z & 15) | (x >> 6) << 4 for x, z in zip(a, c, strict=True)]
    minima = [y & 63 for y in b] + [(z >> 4) | (y >> 6) << 4 for y, z in zip(b, c, strict=True)]
    return torch.tensor([scales, minima])


def _joined(octets: bytes, shift: int = 4, low_first: bool = True, crossed: bool = False) -> Tensor:
    """The same with one thing otherwise: the shift of the high bits, the nibbles, or where the high bits come from."""
    a, b, c = octets[:4], octets[4:8], octets[8:]
    low, high = [z & 15 for z in c], [z >> 4 for z in c]
    if not low_first:
        low, high = high, low
    tops = (b, a) if crossed else (a, b)
    late = [[n | (x >> 6) << shift for n, x in zip(half, top, strict=True)]
            for half, top in zip((low, high), tops, strict=True)]  # fmt: skip
    return torch.tensor([[x & 63 for x in first] + rest for first, rest in zip((a, b), late, strict=True)])


def _no_high_bits(octets: bytes) -> Tensor:
    return torch.tensor([[x & 63 for x in octets[:4]] + [z & 15 for z in octets[8:]],
                         [y & 63 for y in octets[4:8]] + [z >> 4 for z in octets[8:]]])  # fmt: skip


def _nibbles_swapped(octets: bytes) -> Tensor:
    return _joined(octets, low_first=False)


def _crossed(octets: bytes) -> Tensor:
    return _joined(octets, crossed=True)


def _not_shifted(octets: bytes) -> Tensor:
    return _joined(octets, shift=0)


def _no_mask(octets: bytes) -> Tensor:
    whole = six_bits(octets)
    whole[0, :4], whole[1, :4] = torch.tensor(list(octets[:4])), torch.tensor(list(octets[4:8]))
    return whole


def _four_bits_above(octets: bytes) -> Tensor:
    a, b, c = octets[:4], octets[4:8], octets[8:]
    scales = [(z & 15) << 2 | x >> 6 for x, z in zip(a, c, strict=True)]
    minima = [(z >> 4) << 2 | y >> 6 for y, z in zip(b, c, strict=True)]
    return torch.tensor([[x & 63 for x in a] + scales, [y & 63 for y in b] + minima])


def cases(rng: random.Random) -> list[TensorCase]:
    """Any 12 bytes are scales and minima."""
    found = []
    for at in range(6):
        octets = bytes(rng.randrange(256) for _ in range(12))
        right = torch.stack(split_six(torch.tensor(list(octets), dtype=torch.uint8)))
        found.append(TensorCase(f"12 random bytes ({at + 1})", (octets,), right))
    return found


exercise = Exercise(
    id="lesson3-six-bits",
    title="Sixteen numbers in twelve bytes",
    question=(
        "A super-block of Q4_K has 8 scales and 8 minima of 6 bits: 96 bits, 12 bytes. Write `six_bits(octets)`: a "
        "tensor [2, 8], the scales above the minima. Bytes 0 to 3: **low 6 bits** scales 0 to 3; **high 2 bits** the "
        "two *highest* bits of scales 4 to 7. Bytes 4 to 7: the same for the minima. Bytes 8 to 11: **low 4 bits** the "
        "four *lowest* bits of scales 4 to 7, **high 4 bits** those of minima 4 to 7. `octets` is a `bytes` of 12."
    ),
    starter='''\
import torch


def six_bits(octets):
    """12 bytes -> 8 scales and 8 minima, whole numbers from 0 to 63 [2, 8]."""
    ...
''',
    answer=six_bits,
    hints=(
        "`x & 63` are a byte's low six bits, `x >> 6` the high two, `z & 15` the low four, `z >> 4` the high four.",
        "A late scale is `low4 | high2 << 4`: the two high bits go above the four low ones.",
        "`a, b, c = octets[:4], octets[4:8], octets[8:]`: late scales from `a` and `c`, late minima from `b` and `c`.",
    ),
    known_wrong=(
        (_no_high_bits, "no high bits"),
        (_nibbles_swapped, "nibbles swapped"),
        (_crossed, "crossed"),
        (_not_shifted, "not shifted"),
        (_no_mask, "no mask"),
        (_four_bits_above, "four bits above"),
    ),
    diagnoses={
        "no high bits": "Numbers 4 to 7 have only their low bits. Two more are in the tops of the first eight bytes.",
        "nibbles swapped": "In bytes 8 to 11 the low four bits belong to the scales, the high four to the minima.",
        "crossed": "Yours are crossed: high bits of the scales are in bytes 0 to 3, of the minima in bytes 4 to 7.",
        "not shifted": "The two high bits must go above the four low ones: shift them by 4.",
        "no mask": "The first four of each still carry two bits of another number: mask them with `& 63`.",
        "four bits above": "You put the four bits above the two. The two from the first bytes are the highest.",
    },
    judge=judge_on_tensors(cases, "the numbers are those that llama.cpp reads"),
    solution_code=f"import torch\n\n\n{source(six_bits)}",
)
