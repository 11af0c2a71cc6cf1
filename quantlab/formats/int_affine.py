"""Integer levels: a weight is a scale times a small whole number.

    w_hat = s * (q - z),   q in {0, 1, ..., 2^bits - 1}

Symmetric: z sits in the middle, and one scale serves a group. Asymmetric: z moves the levels to where the weights are.
Groups run along k: each g neighbouring weights of a row share s and z; or a whole row does, or the whole matrix.

This file says which **values** can be stored. How a range of weights becomes s and z, and which code a weight exactly
between two levels gets, differs between libraries: `int_rounding` has their rules side by side. Which **bytes** hold
the codes differs as well, and has nothing to do with the values: one grid, several packings (`pack_quantized`,
`awq_pack`, `gptq_pack`).

>>> from quantlab.formats.catalog import get
>>> W = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
>>> awq, gptq = get("awq_int4_g128"), get("gptq_int4_g128")
>>> Q = awq.quantize(W)
>>> q, p = awq.packing.unpack(Q.parts, Q.shape)     # what is stored, whatever stored it
>>> torch.equal(gptq.store(q, p).dequantize(), Q.dequantize())  # the same values in GPTQ's bytes
True

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", arXiv 1712.05877, equation 1. The codes are chosen for the scale that is stored, rounded to `scale_dtype`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantlab.core import Params
from quantlab.formats.int_rounding import CompressedTensors, Rounding


def stored_scale(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales in the type that holds them; one that is too large raises ValueError, since its whole group would be lost.

    >>> stored_scale(torch.tensor([0.1]), torch.float16)
    tensor([0.1000], dtype=torch.float16)
    """
    stored = scale.to(dtype)
    if not torch.isfinite(stored).all():
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"a group has scale {scale.abs().max():g}, beyond a {name} scale; rescale the weights")
    return stored


@dataclass(frozen=True)
class IntAffine:
    """`2**bits` levels for each group of `group` weights; `group=None` is a whole row, `per_tensor` all rows together.

    >>> grid = IntAffine(bits=4, group=2)
    >>> W = torch.tensor([[7.5, -3.5, 0.0, 1.0]])
    >>> p = grid.fit(W)
    >>> p["scale"]
    tensor([[1.0000, 0.1333]])
    >>> grid.encode(W, p)
    tensor([[15,  4,  8, 15]], dtype=torch.uint8)
    """

    bits: int
    group: int | None = 128
    symmetric: bool = True
    scale_dtype: torch.dtype = torch.float16
    rounding: Rounding = field(default_factory=CompressedTensors)
    per_tensor: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be from 2 to 8, got {self.bits}")
        if self.group is not None and self.group < 1:
            raise ValueError(f"group must be at least 1, got {self.group}; None is a whole row")
        if self.per_tensor and self.group is not None:
            raise ValueError(f"per_tensor leaves no groups of {self.group}; choose group=None")

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """scale [n, k/g] in float32, rounded to what is stored; zero [n, k/g], a whole number.

        Raises ValueError for rows that do not divide into groups, or a scale that is too large to be stored.
        """
        groups = self._groups(W.to(self._arithmetic(W)))
        if self.per_tensor:
            groups = groups.reshape(1, 1, -1)
        scale, zero = self.rounding.fit(groups, self.bits, self.symmetric)
        stored = stored_scale(scale, self.scale_dtype)
        stored = stored.masked_fill(stored == 0, self.rounding.empty(self.scale_dtype))
        p = {"scale": stored.float(), "zero": zero.float()}
        return {name: part.expand(len(W), 1) for name, part in p.items()} if self.per_tensor else p

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Codes as float32, element by element (the three broadcast): what GPTQ asks for, one column at a time."""
        arithmetic = self._arithmetic(w)
        if not w.dtype == scale.dtype == zero.dtype == arithmetic:  # casts to the same type cost too, column by column
            w, scale, zero = w.to(arithmetic), scale.to(arithmetic), zero.to(arithmetic)
        q = self.rounding.snap(w, scale, zero, self.bits).clamp_(0, 2**self.bits - 1)
        return q if q.dtype == torch.float32 else q.float()

    def value(self, q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """s * (q - z), element by element."""
        return (q - zero) * scale

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The code of each weight, uint8 [n, k]."""
        if "g_idx" in p:
            return self.snap(W, *self._columns(p)).to(torch.uint8)
        return self.snap(self._groups(W), p["scale"][..., None], p["zero"][..., None]).to(torch.uint8).flatten(1)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """s * (q - z), float32 [n, k]."""
        if "g_idx" in p:
            return self.value(q, *self._columns(p))
        return self.value(self._groups(q).float(), p["scale"][..., None], p["zero"][..., None]).flatten(1)

    def _arithmetic(self, W: Tensor) -> torch.dtype:
        """The rule's own type, or the wider of the weights' and the scales'."""
        return self.rounding.dtype or torch.promote_types(W.dtype, self.scale_dtype)

    def _groups(self, W: Tensor) -> Tensor:
        """W [n, k] -> [n, k/g, g]."""
        g = self.group or W.shape[1]
        if W.shape[1] % g:
            raise ValueError(f"rows of {W.shape[1]} weights do not divide into groups of {g}; choose a divisor of k")
        return W.reshape(W.shape[0], -1, g)

    def _columns(self, p: Params) -> tuple[Tensor, Tensor]:
        """Scale and zero [n, k] of every column, where "g_idx" [k] says which group it is in (GPTQ's act order)."""
        of = p["g_idx"].long()
        return p["scale"][:, of], p["zero"][:, of]
