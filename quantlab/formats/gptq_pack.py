"""GPTQ's checkpoints: the bytes of AutoGPTQ, GPTQModel, and of every model called -GPTQ.

    qweight   int32   [k * bits / 32, n]     the codes of one output, 32/bits inputs in a word
    qzeros    int32   [k/g, n * bits / 32]   the zero points of a group, 32/bits outputs in a word
    scales    float16 [k/g, n]
    g_idx     int32   [k]                    the group of each input

The matrix is transposed, as AWQ's, but a word of qweight holds neighbours along k, not along n, and in their natural
order. Codes of 3 bits lie across words: 32 of them in three.

**Version 1** stores z - 1 where version 2 stores z: the first CUDA kernel added 1, and every checkpoint since pays for
it. GPTQModel subtracts one from each field of a finished word (...00010001), so that where z = 0 the borrow runs into
the neighbour: adding the same number gives all of them back, but a kernel that takes the fields apart first reads 16
instead of 0 and one too few beside it. Symmetric grids have z = 8 and never meet it; for asymmetric ones choose
version=2. (3-bit fields are taken apart, lowered modulo 8, and packed again.)

**desc_act** (act order): GPTQ took the columns by importance, so a group's columns are not neighbours, and `g_idx` says
which group each is in. Without it g_idx is 0 0 ... 1 1 ..., and stored all the same.

Reference: GPTQModel 7.7.0, `pack_block` and `convert_gptq_v2_to_v1_format_module`. GPTQModel chooses codes for the
scale in float32 and rounds that to float16 when it packs; here they are chosen for the scale that is stored, unless
`scale_dtype="float32"` asks for its codes. Left out: 5, 6 and 7 bits (its planar format), Marlin.
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
from quantlab.formats.pack_quantized import stored_as
from quantlab.formats.words import pack_words, unpack_words
from quantlab.layout import int_layout

BITS = (2, 3, 4, 8)


@dataclass(frozen=True)
class GptqWords:
    """GPTQ's qweight, qzeros, scales and g_idx. Without `desc_act` the columns of a group must be neighbours."""

    bits: int = 4
    group: int | None = 128
    version: int = 1
    desc_act: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"GPTQ packs 2, 3, 4 or 8 bits, got {self.bits}; compressed-tensors packs 2 to 8")
        if self.version not in (1, 2):
            raise ValueError(f"version must be 1 or 2, got {self.version}; every program reads 1")

    def pack(self, q: Tensor, p: Params) -> Parts:
        """The tensors drawn above. Raises ValueError where n or k do not fill whole words."""
        n, k = q.shape
        self._check(n, k, p)
        g_idx = p.get("g_idx", self._neighbours(k, q.device))
        return {
            "qweight": pack_words(q, self.bits).T.contiguous(),
            "qzeros": self._zeros(p["zero"].T.to(torch.uint8).contiguous()),
            "scales": stored_scale(p["scale"].T, torch.float16).contiguous(),
            "g_idx": g_idx.to(torch.int32),
        }

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and their parameters; "g_idx" only where the columns of a group are not neighbours."""
        n, k = shape
        q = unpack_words(parts["qweight"].T, self.bits, k)
        zero = self._unzeros(parts["qzeros"], n).T.float().contiguous()
        p = {"scale": parts["scales"].T.float().contiguous(), "zero": zero}
        g_idx = parts["g_idx"]
        return q, p if torch.equal(g_idx, self._neighbours(k, g_idx.device)) else {**p, "g_idx": g_idx}

    def _zeros(self, zero: Tensor) -> Tensor:
        """Zero points uint8 [k/g, n] -> words; version 1 lowers every field by one."""
        if self.version == 2:
            return pack_words(zero, self.bits)
        if self.bits == 3:
            return pack_words((zero - 1) & 7, 3)
        return pack_words(zero, self.bits) - self._ones()

    def _unzeros(self, words: Tensor, n: int) -> Tensor:
        """The inverse of `_zeros`."""
        if self.version == 2:
            return unpack_words(words, self.bits, n)
        if self.bits == 3:
            return (unpack_words(words, 3, n) + 1) & 7
        return unpack_words(words + self._ones(), self.bits, n)

    def _ones(self) -> int:
        """A word with 1 in every field: 0x11111111 for 4 bits."""
        return sum(1 << shift for shift in range(0, 32, self.bits))

    def _neighbours(self, k: int, device: torch.device) -> Tensor:
        return torch.arange(k, dtype=torch.int32, device=device) // (self.group or k)

    def _check(self, n: int, k: int, p: Params) -> None:
        whole = 32 if self.bits == 3 else 32 // self.bits
        for size, what in ((n, "outputs"), (k, "inputs")):
            if size % whole:
                raise ValueError(
                    f"GPTQ packs {whole} {what} of {self.bits} bits together, {size} do not divide; "
                    f"take int{self.bits}_g128"
                )
        groups = k // (self.group or k)
        if p["scale"].shape != (n, groups):
            raise ValueError(
                f"[{n}, {k}] in groups of {self.group or k} has scales [{n}, {groups}], got {list(p['scale'].shape)}; "
                "take the packing of the grid that made them"
            )
        if "g_idx" in p and not self.desc_act:
            raise ValueError("g_idx mixes the columns of groups; choose desc_act=True, or static groups")


def build(
    name: str,
    *,
    bits: int,
    group: int | None,
    version: int = 1,
    desc_act: bool = False,
    symmetric: bool = True,
    scale_dtype: str | torch.dtype = "float16",
) -> Format:
    """GPTQ's bytes for any of its bits, in groups of any size; None is a whole row."""
    grid = IntAffine(bits, group, symmetric, stored_as(scale_dtype), rounding("gptq"))
    packing = GptqWords(bits, group, version, desc_act)
    note = "its packing; its rounding, for the scale that is stored"
    layout = int_layout(name, bits, group, zero_bits=bits, column_bytes=4)
    return Format(name, grid, packing, layout, Reference("gptqmodel", "7.7.0", Fidelity.BIT_EXACT, note))


BUILDERS: dict[str, Callable[..., Format]] = {
    f"gptq_int{bits}_g{group}": partial(build, f"gptq_int{bits}_g{group}", bits=bits, group=group)
    for bits, groups in {4: (128, 64, 32), 3: (128, 64)}.items()
    for group in groups
}
