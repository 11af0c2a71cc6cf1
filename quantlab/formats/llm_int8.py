"""LLM.int8(): a byte for each weight and the largest magnitude of its row, as bitsandbytes stores it.

    w_hat = absmax(row) * q / 127,   q = round(w * 127 / absmax) in -127 ... 127

    weight   int8    [n, k]
    SCB      float32 [n]        max|w| of each row ("statistics for the columns of B", the transposed weights)

The method's name is about what happens when the model runs: inputs are rounded to 8 bits too, but the few channels that
reach 6 or more are multiplied in 16 bits (Dettmers et al. 2022, arXiv 2208.07339). What is stored knows nothing of it.

Beside compressed-tensors' `int8` the grid is symmetric in its codes: -128 is never used, and full scale is 127 instead
of 127.5.

Source: bitsandbytes 0.50.2 on the CPU (`Int8Params`, `int8_vectorwise_quant`, `int8_vectorwise_dequant`), bit for bit.
The weights are cast to float16 first, whatever they were; the rest is float32. A row of zeros divides 0 by 0 there,
which x86 stores as code 0; here it is 0 by rule. Left out: `weight_format`, one byte of a checkpoint that is always 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Params, Parts, Reference
from quantlab.formats.int_affine import stored_scale
from quantlab.layout import layout

TOP = 127  # the largest code; codes are counted from 128 up, as all of ours are unsigned
_MIDDLE = 128


@dataclass(frozen=True)
class RowMaximum:
    """255 even steps from -absmax to absmax for each row.

    >>> grid = RowMaximum()
    >>> W = torch.tensor([[127.0, -1.0, 63.4]])
    >>> p = grid.fit(W)
    >>> p["absmax"], grid.encode(W, p)
    (tensor([[127.]]), tensor([[255, 127, 191]], dtype=torch.uint8))
    """

    bits = 8
    scale_dtype = torch.float32

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """{"absmax": float32 [n, 1]}; raises ValueError beyond float16, which the library casts to."""
        return {"absmax": stored_scale(W.abs().amax(1, keepdim=True), torch.float16).float()}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest step of each weight, uint8 [n, k]; a tie goes to the even one."""
        q = (W.half() * (TOP / p["absmax"])).nan_to_num_(0).round_()
        return (q.clamp_(-TOP, TOP) + _MIDDLE).to(torch.uint8)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """absmax * q / 127, float32 [n, k]."""
        return (q.float() - _MIDDLE) * p["absmax"] * (1 / TOP)


@dataclass(frozen=True)
class SignedBytes:
    """The codes as signed bytes, and the rows' maxima."""

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"weight": int8 [n, k], "SCB": float32 [n]}."""
        return {"weight": (q ^ _MIDDLE).view(torch.int8), "SCB": p["absmax"].flatten()}

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and the maxima."""
        return parts["weight"].view(torch.uint8) ^ _MIDDLE, {"absmax": parts["SCB"][:, None]}


def _build() -> Format:
    reference = Reference("bitsandbytes", "0.50.2", Fidelity.BIT_EXACT, "its CPU backend; casts to float16 first")
    return Format("llm_int8", RowMaximum(), SignedBytes(), layout("llm_int8"), reference)


BUILDERS: dict[str, Callable[..., Format]] = {"llm_int8": _build}
