"""Exercise: 16 weights of NVFP4 from their nine bytes, and the one float32 of the tensor."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from quantlab.formats.catalog import quantize_tensor
from quantlab.lesson.exercises import Exercise, source
from quantlab.lesson.judging_tensors import TensorCase, judge_on_tensors
from quantlab.lesson.lesson2.draws import normal

LEVELS = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


def nvfp4(codes: bytes, scale: float, global_scale: float) -> Tensor:
    """The 16 weights in 8 bytes, the scale of the block, and the tensor's own."""
    levels = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    levels += [-level for level in levels]  # bit 3 is the sign
    pairs = [(byte & 15, byte >> 4) for byte in codes]  # weights 2i and 2i + 1
    return torch.tensor([levels[code] for pair in pairs for code in pair]) * scale / global_scale


def _weights(codes: list[int], scale: float, global_scale: float) -> Tensor:
    signed = [-LEVELS[code & 7] if code & 8 else LEVELS[code & 7] for code in codes]
    return torch.tensor(signed) * scale / global_scale


def _in_order(codes: bytes) -> list[int]:
    return [code for byte in codes for code in (byte & 15, byte >> 4)]


def _high_first(codes: bytes, scale: float, global_scale: float) -> Tensor:
    return _weights([code for byte in codes for code in (byte >> 4, byte & 15)], scale, global_scale)


def _half_blocks(codes: bytes, scale: float, global_scale: float) -> Tensor:
    return _weights([byte & 15 for byte in codes] + [byte >> 4 for byte in codes], scale, global_scale)


def _multiplied(codes: bytes, scale: float, global_scale: float) -> Tensor:
    return nvfp4(codes, scale, 1 / global_scale)


def _no_global(codes: bytes, scale: float, global_scale: float) -> Tensor:
    return nvfp4(codes, scale, 1)


def _no_sign(codes: bytes, scale: float, global_scale: float) -> Tensor:
    return nvfp4(codes, scale, global_scale).abs()


def _whole_numbers(codes: bytes, scale: float, global_scale: float) -> Tensor:
    signed = [-(code & 7) if code & 8 else code & 7 for code in _in_order(codes)]
    return torch.tensor(signed) * scale / global_scale


def _twos_complement(codes: bytes, scale: float, global_scale: float) -> Tensor:
    signed = [code - 16 if code & 8 else code for code in _in_order(codes)]
    return torch.tensor(signed) * scale / global_scale


def cases(rng: random.Random) -> list[TensorCase]:
    """Blocks of matrices that the library quantized; a large weight elsewhere sets the tensor's scale."""
    found = []
    for at in range(5):
        W = normal(rng, 4, 32) * rng.uniform(0.5, 3)
        W[3] *= 4
        Q = quantize_tensor(W, "nvfp4")
        row = rng.randrange(3)
        codes = bytes(Q.parts["weight_packed"][row, :8].tolist())
        scale, whole = float(Q.parts["weight_scale"][row, 0]), float(Q.parts["weight_global_scale"])
        found.append(TensorCase(f"a random block ({at + 1})", (codes, scale, whole), Q.dequantize()[row, :16]))
    return found


exercise = Exercise(
    id="lesson3-nvfp4-block",
    title="A block of Blackwell's 4-bit floats",
    question=(
        "NVFP4 keeps 16 weights in 8 bytes: byte i holds weight 2i in its **low** four bits and weight 2i + 1 in its "
        "high four. A code is sign, two exponent bits, one mantissa bit: codes 0 to 7 stand for 0, 0.5, 1, 1.5, 2, 3, "
        "4, 6, and 8 to 15 for the same below zero. A weight is that number times `scale` (the E4M3 byte of the block, "
        "already a float), **divided** by `global_scale`, the one float32 of the tensor. Write "
        "`nvfp4(codes, scale, global_scale)`: the 16 weights in `codes`, a `bytes` of length 8."
    ),
    starter='''\
import torch


def nvfp4(codes, scale, global_scale):
    """The 16 weights in 8 bytes, the scale of the block, and the tensor's own."""
    ...
''',
    answer=nvfp4,
    hints=(
        "A list of 16 numbers, the eight and then their negatives, turns a code into a number: `levels[code]`.",
        "`[(byte & 15, byte >> 4) for byte in codes]` are the codes in pairs, in the right order.",
        "`torch.tensor([...]) * scale / global_scale`.",
    ),
    known_wrong=(
        (_high_first, "high first"),
        (_half_blocks, "half blocks"),
        (_multiplied, "multiplied"),
        (_no_global, "no global"),
        (_no_sign, "no sign"),
        (_whole_numbers, "whole numbers"),
        (_twos_complement, "two's complement"),
    ),
    diagnoses={
        "high first": "Neighbours are swapped: the low four bits come first. (bitsandbytes does it the other way.)",
        "half blocks": "That is llama.cpp's order, half a block apart. Here a byte holds two neighbours.",
        "multiplied": "Divide by `global_scale`: it is what the block scales were multiplied by to fit in 8 bits.",
        "no global": "`global_scale` is missing: divide by it.",
        "no sign": "Codes 8 to 15 are below zero: bit 3 is the sign.",
        "whole numbers": "Those are steps of 1. The codes of a float stand for 0, 0.5, 1, 1.5, 2, 3, 4, 6.",
        "two's complement": "A float's sign is a bit of its own: code 9 is -0.5, not 9 - 16.",
    },
    judge=judge_on_tensors(cases, "the weights are those that compressed-tensors reads"),
    solution_code=f"import torch\n\n\n{source(nvfp4)}",
)
