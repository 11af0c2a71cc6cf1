"""Bytes on disk of every format, as data: no torch, so that planning is instant.

A format stores `block` weights in `nbytes` bytes, scales and zero points included. The same figures are checked against
the tensors that the formats really store (tests/conformance) and against llama.cpp's own table (tests/reference).

Sources: ggml-common.h of llama.cpp (block structs); bitsandbytes 0.50 (one absmax for each block); AutoAWQ 0.2.9
(float16 scale and packed zero point for each group of 128).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from quantlab.errors import unknown


@dataclass(frozen=True)
class Layout:
    """`block` weights take `nbytes` bytes; each row of a matrix may carry `row_bytes` more.

    Blocks run along each row; in a `flat` format they run over the whole tensor, one row after the other.
    """

    name: str
    block: int
    nbytes: Fraction
    note: str
    row_bytes: int = 0
    flat: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Bits for each weight, overhead included.

        >>> layout("q4_k").bits_per_weight
        4.5
        """
        return float(8 * self.nbytes / self.block)

    def bytes_for(self, weights: int) -> int:
        """Bytes for so many weights in a row, rounded up to whole blocks; `row_bytes` left out."""
        return math.ceil(-(-weights // self.block) * self.nbytes)

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix [rows, columns].

        >>> layout("int8").matrix_bytes(4096, 4096) - 4096 * 4096  # a float32 scale for each row
        16384
        """
        if self.flat:
            return self.bytes_for(rows * columns)
        return rows * (self.bytes_for(columns) + self.row_bytes)


def _grouped(name: str, bits: int, group: int, overhead_bytes: Fraction | int, note: str) -> Layout:
    return Layout(name, group, Fraction(group * bits, 8) + overhead_bytes, note)


def _bitsandbytes(name: str, absmax_bytes: Fraction, note: str) -> Layout:
    return Layout(name, 64, 32 + absmax_bytes, note, flat=True)


def _gguf(name: str, block: int, nbytes: int, note: str) -> Layout:
    return Layout(name, block, Fraction(nbytes), note)


_ALL = (
    Layout("fp32", 1, Fraction(4), "IEEE single precision"),
    Layout("bf16", 1, Fraction(2), "8 exponent bits, 7 mantissa bits"),
    Layout("fp16", 1, Fraction(2), "5 exponent bits, 10 mantissa bits"),
    Layout("fp8_e4m3", 1, Fraction(1), "one scale for the tensor, negligible"),
    Layout("fp8_e5m2", 1, Fraction(1), "one scale for the tensor, negligible"),
    Layout("int8", 1, Fraction(1), "one float32 scale for each row, negligible for long rows", row_bytes=4),
    _grouped("int4_g128", 4, 128, 2, "a float16 scale for each group"),
    _grouped("int4_g32", 4, 32, 2, "a float16 scale for each group"),
    _grouped("int3_g128", 3, 128, 2, "a float16 scale for each group"),
    _grouped("int2_g128", 2, 128, 2, "a float16 scale for each group"),
    _grouped("awq_int4_g128", 4, 128, Fraction(5, 2), "a float16 scale and a 4-bit zero point for each group"),
    _grouped("gptq_int4_g128", 4, 128, Fraction(5, 2), "as AWQ; act-order adds 32 bits for each column"),
    _bitsandbytes("nf4", Fraction(4), "a float32 absmax for each block of 64"),
    _bitsandbytes("fp4", Fraction(4), "a float32 absmax for each block of 64"),
    _bitsandbytes("nf4_dq", 1 + Fraction(4, 256), "absmax in 8 bits, one float32 for 256 of them"),
    _grouped("mxfp4", 4, 32, 1, "an E8M0 scale for each block of 32"),
    _grouped("nvfp4", 4, 16, 1, "an E4M3 scale for each block of 16; one float32 for the tensor"),
    _gguf("q4_0", 32, 18, "fp16 scale, 32 nibbles"),
    _gguf("q4_1", 32, 20, "fp16 scale and minimum, 32 nibbles"),
    _gguf("q5_0", 32, 22, "fp16 scale, 32 fifth bits, 32 nibbles"),
    _gguf("q5_1", 32, 24, "fp16 scale and minimum, 32 fifth bits, 32 nibbles"),
    _gguf("q8_0", 32, 34, "fp16 scale, 32 bytes"),
    _gguf("q2_k", 256, 84, "16 4-bit scales and minima, 64 bytes of codes, 2 fp16"),
    _gguf("q3_k", 256, 110, "32 bytes of high bits, 64 of low bits, 12 of scales, 1 fp16"),
    _gguf("q4_k", 256, 144, "2 fp16, 12 bytes of 6-bit scales and minima, 128 of nibbles"),
    _gguf("q5_k", 256, 176, "as q4_k, and 32 bytes of fifth bits"),
    _gguf("q6_k", 256, 210, "128 bytes of low bits, 64 of high bits, 16 scales, 1 fp16"),
    _gguf("iq4_nl", 32, 18, "fp16 scale, 32 nibbles into a table of 16 uneven levels"),
    _gguf("iq4_xs", 256, 136, "as iq4_nl, with 6-bit scales for each 32"),
)
LAYOUTS = {entry.name: entry for entry in _ALL}


def layout(name: str) -> Layout:
    """The layout of a format by name; an unknown name raises with the nearest one."""
    if name not in LAYOUTS:
        raise unknown("format", name, LAYOUTS)
    return LAYOUTS[name]
