"""Three libraries, three ways to round to integer levels: where they differ, and by what.

All store w_hat = s * (q - z) with q from 0 to 2^bits - 1. They differ in how a group's range becomes s and z, and in
the order of the arithmetic, which decides the ties and the last bit:

                     compressed-tensors              AutoAWQ                        GPTQ
    arithmetic in    the weights' type               float16                        float32
    range            widened to hold 0               as it is, at least 1e-5 wide   widened to hold 0
    symmetric s      max|w| / (2^(bits-1) - 1/2)     max|w| / (2^(bits-1) - 1)      2 max|w| / (2^bits - 1)
    a group of 0     s = the type's epsilon          s = 1e-5 / (2^bits - 1)        s = 2 / (2^bits - 1)
    code             round(w/s + z)                  round(w/s) + z                 round(w/s) + z
    a tie            even counted from the middle    even counted from z            even counted from z

and each has a corner where it surprises, kept here because the bytes must be theirs:

    compressed-tensors   w/s is rounded to bfloat16 where the weights are: codes of 8 bits can then miss by one
    AutoAWQ              a range that lies off 0 has its zero point clamped: a group that is 0.37 throughout becomes
                         0.00001
    GPTQ                 symmetric, without one negative weight: the range is only mirrored if there is a negative
                         weight, s is half of what it should be, and the larger half of the weights is clipped

Sources: compressed-tensors 0.19.0 (`calculate_qparams`, `quantize`); AutoAWQ 0.2.9 (`pseudo_quantize_tensor`,
`WQLinear_GEMM.from_linear`); IST-DASLab/gptq (`Quantizer.find_params`, `quantize`), as in GPTQModel 7.7.0. Left out:
the searches for a smaller range (`mse`), which are methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quantlab.errors import unknown


def smallest_scale(dtype: torch.dtype) -> float:
    """The smallest positive scale of a type; a normal number where that is small enough.

    >>> smallest_scale(torch.float16) == 2.0**-24
    True
    """
    info = torch.finfo(dtype)
    return max(info.smallest_normal * info.eps, torch.finfo(torch.float32).smallest_normal)


class Rounding(Protocol):
    """How a library turns a group into a scale and a zero point, and a weight into a code."""

    @property
    def name(self) -> str:
        """The library."""
        ...

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of its arithmetic; None is the wider of the weights' and the scales'."""
        ...

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        """Groups [..., g] -> scale and zero [...], before the scale is rounded to what is stored."""
        ...

    def empty(self, scale_dtype: torch.dtype) -> float:
        """What is stored for a scale that is 0 in `scale_dtype`."""
        ...

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        """Whole numbers that may lie outside of the codes: the caller clamps them."""
        ...


@dataclass(frozen=True)
class CompressedTensors:
    """compressed-tensors and llm-compressor: codes are stored counted from the middle, -8 to 7, and rounded as such."""

    name: str = "compressed-tensors"
    dtype: torch.dtype | None = None

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        """Range with 0 in it; the half step of the symmetric grid lets -8 and +7 reach equally far."""
        steps, middle = 2**bits - 1, 2 ** (bits - 1)
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        if symmetric:
            return torch.maximum(-low, high) / (steps / 2), torch.full_like(low, middle)
        scale = (high - low) / steps
        zero = (-middle - low / scale).clamp(-middle, middle - 1).round()
        return scale, zero.nan_to_num(0) + middle  # 0 / 0 in a group of zeros: NaN, which x86 casts to int8 as 0

    def empty(self, scale_dtype: torch.dtype) -> float:
        """Epsilon: 2^-10 for float16, 2^-7 for bfloat16."""
        return torch.finfo(scale_dtype).eps

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        """round(w/s + z), counted from the middle."""
        middle = 2 ** (bits - 1)
        return (w / scale).add_(zero - middle).round_().add_(middle)


@dataclass(frozen=True)
class AutoAWQ:
    """AutoAWQ: the layer is cast to float16 first, and every step rounds to float16."""

    name: str = "autoawq"
    dtype: torch.dtype | None = torch.float16

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        """The range as it is: 0 need not lie in it."""
        steps = 2**bits - 1
        if symmetric:
            scale = groups.abs().amax(-1).clamp(min=1e-5) / (2 ** (bits - 1) - 1)
            return scale, torch.full_like(scale, 2 ** (bits - 1))
        low, high = groups.amin(-1), groups.amax(-1)
        scale = (high - low).clamp(min=1e-5) / steps
        return scale, (-(low / scale).round()).clamp(0, steps)

    def empty(self, scale_dtype: torch.dtype) -> float:
        """Never asked for: 1e-5 / 255 is a number in float16, and in every wider type."""
        return torch.finfo(scale_dtype).tiny

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        """round(w/s) + z."""
        return (w / scale).round_().add_(zero)


@dataclass(frozen=True)
class Gptq:
    """The quantizer of the authors of GPTQ, which GPTQModel and its predecessors inherited."""

    name: str = "gptq"
    dtype: torch.dtype | None = torch.float32

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        """Range with 0 in it; symmetric mirrors it, but only where a weight is negative."""
        steps = 2**bits - 1
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        if symmetric:
            high = torch.maximum(-low, high)
            low = torch.where(low < 0, -high, low)
        empty = (low == 0) & (high == 0)
        low, high = low.masked_fill(empty, -1), high.masked_fill(empty, 1)
        scale = (high - low) / steps
        if symmetric:
            return scale, torch.full_like(scale, 2 ** (bits - 1))
        zero = (-low / scale).round()  # without a value where a denormal range has lost its scale
        return scale, zero.nan_to_num(0, posinf=0).clamp(max=steps)

    def empty(self, scale_dtype: torch.dtype) -> float:
        """The smallest positive number; GPTQModel would store 0, and lose the group."""
        return smallest_scale(scale_dtype)

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        """round(w/s) + z."""
        return (w / scale).round_().add_(zero)


ROUNDINGS: dict[str, Rounding] = {rule.name: rule for rule in (CompressedTensors(), AutoAWQ(), Gptq())}


def rounding(name: str) -> Rounding:
    """The way of a library, by its name; an unknown name raises with the nearest one."""
    if name not in ROUNDINGS:
        raise unknown("rounding", name, ROUNDINGS)
    return ROUNDINGS[name]
