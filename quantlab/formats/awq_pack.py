"""AutoAWQ's checkpoints ("GEMM" version): the bytes behind every model called -AWQ.

    qweight   int32   [k, n/8]     eight outputs of one input in a word, in the order 0 2 4 6 1 3 5 7
    qzeros    int32   [k/g, n/8]   the zero points, packed alike
    scales    float16 [k/g, n]

    word:   bits 31..28  27..24  23..20  19..16  15..12  11..8   7..4    3..0
            output  7       5       3       1       6       4      2       0

The matrix is transposed: a GPU multiplies one input with eight neighbouring outputs. The order lets the CUDA kernel
take outputs 0 and 1, 2 and 3, ... out of the word as pairs of float16, with one shift and one mask for two numbers.

A grid of the name `awq_int4_g128` rounds as AutoAWQ does when it packs: weights cast to float16, all arithmetic in
float16 (`int_rounding`). What AWQ does before, scaling channels and clipping, is a method (`quantlab.methods`).

Reference: AutoAWQ 0.2.9, `WQLinear_GEMM.from_linear` and `dequantize_gemm`. There (q - z) * s is a float16; `decode`
gives the same product before that rounding. Left out: GEMV, Marlin and ExLlama layouts; bits other than 4 and grids
without zero points, which AutoAWQ cannot pack either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Params, Parts, Reference
from quantlab.formats.int_affine import IntAffine, stored_scale
from quantlab.formats.int_rounding import rounding
from quantlab.formats.words import pack_words, unpack_words
from quantlab.layout import int_layout

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ's AWQ_ORDER: slot i of a word holds output ORDER[i] of each eight


@dataclass(frozen=True)
class AwqGemm:
    """AutoAWQ's qweight, qzeros and scales."""

    def pack(self, q: Tensor, p: Params) -> Parts:
        """The tensors drawn above. Raises ValueError unless n divides by 8, as AutoAWQ does."""
        n = q.shape[0]
        if n % 8:
            raise ValueError(
                f"AWQ packs 8 outputs in a word, {n} outputs do not divide; take gptq_int4_g128 or int4_g128"
            )
        if "g_idx" in p:
            raise ValueError("AWQ's packing has no place for g_idx; take static groups, or gptq_int4_g128")
        return {
            "qweight": pack_words(q.T.contiguous(), 4, ORDER),
            "qzeros": pack_words(p["zero"].T.to(torch.uint8).contiguous(), 4, ORDER),
            "scales": stored_scale(p["scale"].T, torch.float16).contiguous(),
        }

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and their parameters."""
        n, _ = shape
        q, zero = (unpack_words(parts[name], 4, n, ORDER).T.contiguous() for name in ("qweight", "qzeros"))
        return q, {"scale": parts["scales"].T.float().contiguous(), "zero": zero.float()}


def build(name: str, *, group: int | None) -> Format:
    """AutoAWQ's 4 bits in groups of any size; None is a whole row."""
    grid = IntAffine(4, group, symmetric=False, rounding=rounding("autoawq"))
    reference = Reference("autoawq", "0.2.9", Fidelity.BIT_EXACT, "its rounding in float16 and its GEMM packing")
    return Format(name, grid, AwqGemm(), int_layout(name, 4, group, zero_bits=4), reference)


BUILDERS: dict[str, Callable[..., Format]] = {
    f"awq_int4_g{group}": partial(build, f"awq_int4_g{group}", group=group) for group in (128, 64, 32)
}
