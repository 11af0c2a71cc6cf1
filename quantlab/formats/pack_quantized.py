"""compressed-tensors' integer checkpoints: the bytes that llm-compressor writes and vLLM reads by itself.

"pack-quantized", for weights alone in few bits:

    weight_packed       int32 [n, ceil(k * bits / 32)]     each row's codes end to end, first code in the lowest bits
    weight_scale        [n, k/g]                           in the model's type; [1] if one scale serves the tensor
    weight_zero_point   int32 [ceil(n * bits / 32), k/g]   asymmetric only; packed along n, not along k
    weight_shape        int64 [2]                          since the last word of a row may be part empty

"int-quantized", for 8-bit weights that meet 8-bit activations: whole bytes, counted from the middle.

    weight              int8 [n, k]
    weight_scale        [n, 1]
    weight_zero_point   int8 [n, 1]                        asymmetric only

compressed-tensors counts its codes from the middle (-8 to 7) and adds 2^(bits-1) before it packs them, so what lies in
the words are our codes from 0 to 2^bits - 1. Codes of 3, 5, 6 and 7 bits lie across words, without a gap; older
versions put 32 // bits of them in a word, and left the rest empty.

Reference: compressed-tensors 0.19.0, `PackedQuantizationCompressor` and `IntQuantizationCompressor`. The scales there
have the type of the model's weights. Here `scale_dtype` says it (float16 unless told), so that the bytes do not depend
on the type the weights happen to be loaded in: `scale_dtype="bfloat16"` on bfloat16 weights gives the library's bytes,
arithmetic in bfloat16 included. Where they are not the same type the wider one is computed in, as the library does when
its `scale_dtype` is set; it clamps scales beyond that type, here they are refused. Left out: 3-dimensional weights,
`actorder` of llm-compressor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Packing, Params, Parts, Reference
from quantlab.formats.int_affine import IntAffine, stored_scale
from quantlab.formats.words import pack_words, unpack_words
from quantlab.layout import int_layout

SCALES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class PackQuantized:
    """compressed-tensors' "pack-quantized"."""

    bits: int
    symmetric: bool = True
    scale_dtype: torch.dtype = torch.float16
    per_tensor: bool = False

    def pack(self, q: Tensor, p: Params) -> Parts:
        """The tensors drawn above."""
        middle = 2 ** (self.bits - 1)
        scales = _scales(p, self.scale_dtype, self.per_tensor, middle if self.symmetric else None)
        parts = {"weight_packed": pack_words(q, self.bits), **scales}
        if not self.symmetric and self.per_tensor:  # the one zero point of a tensor is not worth packing
            parts["weight_zero_point"] = (p["zero"][0] - middle).to(torch.int8)
        elif not self.symmetric:
            zero = p["zero"].T.to(torch.uint8).contiguous()
            parts["weight_zero_point"] = pack_words(zero, self.bits).T.contiguous()
        return {**parts, "weight_shape": torch.tensor(q.shape, dtype=torch.int64)}

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and their parameters."""
        n, k = shape
        scale = _unscaled(parts, n)
        middle = 2 ** (self.bits - 1)
        if self.symmetric:
            zero = torch.full_like(scale, middle)
        elif self.per_tensor:
            zero = (parts["weight_zero_point"].float() + middle).expand(n, 1)
        else:
            zero = unpack_words(parts["weight_zero_point"].T, self.bits, n).T.float().contiguous()
        return unpack_words(parts["weight_packed"], self.bits, k), {"scale": scale, "zero": zero}


@dataclass(frozen=True)
class IntQuantized:
    """compressed-tensors' "int-quantized": signed bytes."""

    symmetric: bool = True
    scale_dtype: torch.dtype = torch.float32
    per_tensor: bool = False

    def pack(self, q: Tensor, p: Params) -> Parts:
        """The tensors drawn above."""
        scales = _scales(p, self.scale_dtype, self.per_tensor, 128 if self.symmetric else None)
        parts = {"weight": (q ^ 128).view(torch.int8), **scales}
        if self.symmetric:
            return parts
        zero = p["zero"][0] if self.per_tensor else p["zero"]
        return {**parts, "weight_zero_point": (zero - 128).to(torch.int8)}

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and their parameters."""
        scale = _unscaled(parts, shape[0])
        zero = 128.0 + (torch.zeros_like(scale) if self.symmetric else parts["weight_zero_point"].float())
        return parts["weight"].view(torch.uint8) ^ 128, {"scale": scale, "zero": zero.expand(scale.shape)}


def _scales(p: Params, dtype: torch.dtype, per_tensor: bool, only_zero: int | None) -> Parts:
    """weight_scale, once it is sure that nothing of the parameters is lost."""
    if "g_idx" in p:
        raise ValueError("compressed-tensors' packing has no place for g_idx; take static groups, or gptq_int4_g128")
    if only_zero is not None and not (p["zero"] == only_zero).all():
        raise ValueError(f"a symmetric packing stores no zero points, and one is not {only_zero}; take symmetric=False")
    return {"weight_scale": stored_scale(p["scale"][0] if per_tensor else p["scale"], dtype)}


def _unscaled(parts: Parts, n: int) -> Tensor:
    scale = parts["weight_scale"].float()
    return scale.expand(n, 1) if scale.ndim == 1 else scale


def stored_as(dtype: str | torch.dtype) -> torch.dtype:
    """The type of stored scales by its name; any other than float16, bfloat16 and float32 raises ValueError.

    >>> stored_as("bfloat16")
    torch.bfloat16
    """
    name = str(dtype).removeprefix("torch.")
    if name not in SCALES:
        raise ValueError(f"scale_dtype must be one of {', '.join(SCALES)}, got {name}")
    return SCALES[name]


def build(
    name: str,
    *,
    bits: int,
    group: int | None,
    symmetric: bool = True,
    scale_dtype: str | torch.dtype = "float16",
    per_tensor: bool = False,
) -> Format:
    """pack-quantized words of any bits, in groups of any size; None is a whole row."""
    dtype = stored_as(scale_dtype)
    grid = IntAffine(bits, group, symmetric, dtype, per_tensor=per_tensor)
    name_of = str(dtype).removeprefix("torch.")
    layout = int_layout(name, bits, group, name_of, 0 if symmetric else bits, per_tensor=per_tensor, tensor_bytes=16)
    note = "scales in float16 unless scale_dtype says otherwise; the library takes the model's type"
    reference = Reference("compressed-tensors", "0.19.0", Fidelity.BIT_EXACT, note)
    packing = PackQuantized(bits, symmetric, dtype, per_tensor)
    return Format(name, grid, packing, layout, reference)


def _bytes(
    *, packed: bool = False, group: int | None = None, symmetric: bool = True,
    scale_dtype: str | torch.dtype = "float32", per_tensor: bool = False,
) -> Format:  # fmt: skip
    if packed or group:
        return build("int8", bits=8, group=group, symmetric=symmetric, scale_dtype=scale_dtype, per_tensor=per_tensor)
    dtype = stored_as(scale_dtype)
    grid = IntAffine(8, None, symmetric, dtype, per_tensor=per_tensor)
    name_of = str(dtype).removeprefix("torch.")
    layout = int_layout("int8", 8, None, name_of, 0 if symmetric else 8, per_tensor=per_tensor)
    packing: Packing = IntQuantized(symmetric, dtype, per_tensor)
    note = "int-quantized; packed=True is pack-quantized"
    return Format("int8", grid, packing, layout, Reference("compressed-tensors", "0.19.0", Fidelity.BIT_EXACT, note))


BUILDERS: dict[str, Callable[..., Format]] = {
    "int8": _bytes,
    **{
        f"int{bits}_g{group}": partial(build, f"int{bits}_g{group}", bits=bits, group=group)
        for bits, groups in {4: (32, 64, 128), 3: (64, 128), 2: (64, 128)}.items()
        for group in groups
    },
}
