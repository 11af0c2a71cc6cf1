"""Exercise: decode one block of a GGUF file, 18 bytes for 32 weights. The check compares with the `gguf` package."""

from __future__ import annotations

import math
import random
import struct

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor

from quantlab.lesson.exercises import Exercise, source
from quantlab.lesson.judging_tensors import TensorCase, judge_on_tensors
from quantlab.lesson.lesson2.draws import normal


def q4_0(block: bytes) -> Tensor:
    """The 32 weights in 18 bytes: a float16 scale, then 16 bytes of two codes each."""
    (scale,) = struct.unpack("<e", block[:2])
    low = [byte & 15 for byte in block[2:]]  # weights 0 to 15
    high = [byte >> 4 for byte in block[2:]]  # weights 16 to 31
    return scale * (torch.tensor(low + high) - 8)


def _scale(block: bytes, kind: str = "<e") -> float:
    return float(struct.unpack(kind, block[:2])[0])


def _codes(block: bytes) -> Tensor:
    return torch.tensor([byte & 15 for byte in block[2:]] + [byte >> 4 for byte in block[2:]])


def _in_pairs(block: bytes) -> Tensor:
    return _scale(block) * (torch.tensor([code for byte in block[2:] for code in (byte & 15, byte >> 4)]) - 8)


def _high_first(block: bytes) -> Tensor:
    return _scale(block) * (_codes(block).roll(16) - 8)


def _no_offset(block: bytes) -> Tensor:
    return _scale(block) * _codes(block)


def _offset_7(block: bytes) -> Tensor:
    return _scale(block) * (_codes(block) - 7.5)


def _twos_complement(block: bytes) -> Tensor:
    codes = _codes(block)
    return _scale(block) * torch.where(codes > 7, codes - 16, codes)


def _big_endian(block: bytes) -> Tensor:
    return _scale(block, ">e") * (_codes(block) - 8)


def _bf16(block: bytes) -> Tensor:
    (scale,) = struct.unpack("<f", b"\0\0" + block[:2])
    return float(scale) * (_codes(block) - 8)


def cases(rng: random.Random) -> list[TensorCase]:
    """Blocks that the `gguf` package wrote, and what it reads from them."""
    found = []
    for at in range(6):
        block = _block(rng)
        while not math.isfinite(_scale(block.tobytes(), ">e")):  # a mistake should give a wrong number, not none
            block = _block(rng)
        right = torch.from_numpy(dequantize(block, GGMLQuantizationType.Q4_0))
        found.append(TensorCase(f"a random block ({at + 1})", (block.tobytes(),), right))
    return found


def _block(rng: random.Random) -> np.ndarray:
    """What the `gguf` package makes of 32 random weights."""
    w = (normal(rng, 32) * rng.uniform(0.5, 4)).numpy().astype(np.float32)
    octets: np.ndarray = quantize(w, GGMLQuantizationType.Q4_0)
    return octets


exercise = Exercise(
    id="lesson2-q4-0-block",
    title="Open a block of a GGUF file",
    question=(
        "Q4_0 stores 32 weights in 18 bytes. Bytes 0 and 1 are the scale, a float16, low byte first. Each of the other "
        "16 bytes holds two codes: the **low** four bits of byte i belong to weight i, the **high** four to weight "
        "i + 16. A weight is scale x (code - 8). Write `q4_0(block)`: the 32 weights in `block`, a `bytes` of length "
        "18. `struct.unpack('<e', two_bytes)` reads a float16."
    ),
    starter='''\
import struct


def q4_0(block):
    """The 32 weights in 18 bytes: a float16 scale, then 16 bytes of two codes each."""
    ...
''',
    answer=q4_0,
    hints=(
        "`(scale,) = struct.unpack('<e', block[:2])`; `block[2:]` are whole numbers from 0 to 255 already.",
        "`byte & 15` are the low four bits, `byte >> 4` the high four.",
        "`torch.tensor(low + high)` joins two lists of 16 codes; take off 8, multiply by the scale.",
    ),
    known_wrong=(
        (_in_pairs, "in pairs"),
        (_high_first, "high first"),
        (_no_offset, "no offset"),
        (_offset_7, "offset 7.5"),
        (_twos_complement, "two's complement"),
        (_big_endian, "big endian"),
        (_bf16, "bf16"),
    ),
    diagnoses={
        "in pairs": (
            "The values are right, their order is not: a byte holds weights i and i + 16, half a block apart, not two "
            "neighbours. (bitsandbytes stores neighbours, the first one high: two layouts of the same integers.)"
        ),
        "high first": "The halves are swapped: the low four bits are weights 0 to 15, the high four 16 to 31.",
        "no offset": "Codes 0 to 15 stand for -8 to 7: take off 8 before you multiply.",
        "offset 7.5": "The levels are not centred here: code 8 is exactly 0. Take off 8.",
        "two's complement": "The codes are not signed numbers: they count from 0, and 8 is taken off.",
        "big endian": "The scale's bytes are the wrong way round: low byte first, `'<e'`.",
        "bf16": "The scale is a float16 (5 exponent bits), not a bfloat16 (8 exponent bits): `'<e'`.",
    },
    judge=judge_on_tensors(cases, "the weights are those that the gguf package reads"),
    solution_code=f"import struct\n\nimport torch\n\n\n{source(q4_0)}",
)
