"""Bytes on disk of every format, as data: no torch, so that planning is instant.

A format stores `block` weights in `nbytes` bytes, scales and zero points included. The same figures are checked against
the tensors that the formats really store (tests/conformance) and against llama.cpp's own table (tests/reference).

Sources: ggml-common.h of llama.cpp (block structs); bitsandbytes 0.50 (one absmax for each block); AutoAWQ 0.2.9
(float16 scale and packed zero point for each group of 128).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from quantlab.errors import unknown


@dataclass(frozen=True)
class Layout:
    """`block` weights take `nbytes` bytes; each row of a matrix may carry `row_bytes` more.

    Blocks run along each row; in a `flat` format they run over the whole tensor, one row after the other, and a short
    last block takes no more than its 4-bit codes fill. Coarser levels of scales: `outer` = (weights, bytes), so many
    bytes for every so many weights, begun or whole; `tile` = (side, bytes) for every square of the matrix; and
    `tensor_bytes` once. `column_bytes` are for each column of the matrix (GPTQ's g_idx).
    """

    name: str
    block: int
    nbytes: Fraction
    note: str
    row_bytes: int = 0
    flat: bool = False
    outer: tuple[int, int] = (1, 0)
    tile: tuple[int, int] = (1, 0)
    tensor_bytes: int = 0
    column_bytes: int = 0

    @property
    def bits_per_weight(self) -> float:
        """Bits for each weight, overhead included.

        >>> layout("q4_k").bits_per_weight
        4.5
        """
        per_weight = self.nbytes / self.block + Fraction(self.outer[1], self.outer[0])
        return float(8 * (per_weight + Fraction(self.tile[1], self.tile[0] ** 2)))

    def bytes_for(self, weights: int) -> int:
        """Bytes for so many weights in a row, rounded up to whole blocks; those of rows, tiles and tensor left out."""
        return math.ceil(self._blocks(weights))

    def _blocks(self, weights: int) -> Fraction:
        unused = -weights % self.block // 2 if self.flat else 0
        return -(-weights // self.block) * self.nbytes - unused + -(-weights // self.outer[0]) * self.outer[1]

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix [rows, columns].

        >>> layout("int8").matrix_bytes(4096, 4096) - 4096 * 4096  # a float32 scale for each row
        16384
        """
        if self.flat:
            return self.bytes_for(rows * columns) + self.tensor_bytes
        tiles = -(-rows // self.tile[0]) * -(-columns // self.tile[0])
        once = self.tensor_bytes + columns * self.column_bytes + tiles * self.tile[1]
        return math.ceil(rows * (self._blocks(columns) + self.row_bytes)) + once  # rows share bytes in qzeros

    def with_block(self, block: int) -> Layout:
        """The same 4-bit codes and overhead, for blocks of another size.

        >>> layout("nf4").with_block(128).bits_per_weight
        4.25
        """
        nbytes = self.nbytes + Fraction(block - self.block, 2)
        return replace(
            self, block=block, nbytes=nbytes, outer=(max(1, self.outer[0] * block // self.block), self.outer[1])
        )


def _grouped(name: str, bits: int, group: int, overhead_bytes: Fraction | int, note: str) -> Layout:
    return Layout(name, group, Fraction(group * bits, 8) + overhead_bytes, note)


def int_layout(
    name: str,
    bits: int,
    group: int | None,
    scale: str = "float16",
    zero_bits: int = 0,
    *,
    per_tensor: bool = False,
    tensor_bytes: int = 0,
    column_bytes: int = 0,
) -> Layout:
    """Integers of so many bits; a scale, and a zero point of `zero_bits`, for each group (None: row) or the tensor.

    >>> int_layout("awq_int4_g64", 4, 64, zero_bits=4).bits_per_weight
    4.3125
    """
    overhead = (4 if scale == "float32" else 2) + Fraction(zero_bits, 8)
    of = "tensor" if per_tensor else "group" if group else "row"
    note = f"a {scale} scale{f' and a {zero_bits}-bit zero point' if zero_bits else ''} for each {of}"
    layout = Layout(name, 1, Fraction(bits, 8), note, tensor_bytes=tensor_bytes, column_bytes=column_bytes)
    if per_tensor:
        return replace(layout, tensor_bytes=tensor_bytes + math.ceil(overhead))
    if group is None:
        return replace(layout, row_bytes=math.ceil(overhead))
    return replace(layout, block=group, nbytes=group * layout.nbytes + overhead)


_GROUPS = {4: (128, 64, 32), 3: (128, 64), 2: (128, 64)}  # the groups that have a name of their own, by bits


def _compressed(bits: int, group: int) -> Layout:
    return int_layout(f"int{bits}_g{group}", bits, group, tensor_bytes=16)  # two int64 hold the shape


def _awq(group: int) -> Layout:
    return int_layout(f"awq_int4_g{group}", 4, group, zero_bits=4)


def _gptq(bits: int, group: int) -> Layout:
    return int_layout(f"gptq_int{bits}_g{group}", bits, group, zero_bits=bits, column_bytes=4)  # the group of each


def _bitsandbytes(name: str, note: str, double: bool = False) -> Layout:
    if not double:
        return Layout(name, 64, Fraction(32 + 4), note, flat=True)
    return Layout(name, 64, Fraction(32 + 1), note, flat=True, outer=(256 * 64, 4), tensor_bytes=4)


def _nvfp4(note: str) -> Layout:
    return replace(_grouped("nvfp4", 4, 16, 1, note), tensor_bytes=4)


def _gguf(name: str, block: int, nbytes: int, note: str) -> Layout:
    return Layout(name, block, Fraction(nbytes), note)


_ALL = (
    Layout("fp32", 1, Fraction(4), "IEEE single precision"),
    Layout("bf16", 1, Fraction(2), "8 exponent bits, 7 mantissa bits"),
    Layout("fp16", 1, Fraction(2), "5 exponent bits, 10 mantissa bits"),
    Layout("fp8_e4m3", 1, Fraction(1), "one scale for the tensor, negligible", tensor_bytes=4),
    Layout("fp8_e5m2", 1, Fraction(1), "one scale for the tensor, negligible", tensor_bytes=4),
    Layout("fp8_e4m3_channel", 1, Fraction(1), "one float32 scale for each row", row_bytes=4),
    Layout("fp8_e4m3_block128", 1, Fraction(1), "one float32 scale for each square of 128 x 128", tile=(128, 4)),
    Layout("int8", 1, Fraction(1), "one float32 scale for each row, negligible for long rows", row_bytes=4),
    Layout("llm_int8", 1, Fraction(1), "one float32 absmax for each row, negligible for long rows", row_bytes=4),
    *(_compressed(bits, group) for bits, groups in _GROUPS.items() for group in groups),
    *(_awq(group) for group in _GROUPS[4]),
    *(_gptq(bits, group) for bits in (4, 3) for group in _GROUPS[bits]),
    _bitsandbytes("nf4", "a float32 absmax for each block of 64"),
    _bitsandbytes("fp4", "a float32 absmax for each block of 64"),
    _bitsandbytes("nf4_dq", "absmax in 8 bits, one float32 for 256 of them and one for the tensor", double=True),
    _bitsandbytes("fp4_dq", "absmax in 8 bits, one float32 for 256 of them and one for the tensor", double=True),
    _grouped("mxfp4", 4, 32, 1, "an E8M0 scale for each block of 32"),
    _nvfp4("an E4M3 scale for each block of 16; one float32 for the tensor"),
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
