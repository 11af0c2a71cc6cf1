"""MXFP4 and NVFP4: 4-bit floating-point numbers in blocks so small that outliers stay alone.

    w_hat = step(block) * {0, .5, 1, 1.5, 2, 3, 4, 6}[q],   q = sign, two exponent bits, one mantissa bit (E2M1)

    MXFP4   blocks of 32, step = a power of two in a byte (E8M0: 2^(byte - 127))                           4.25 bits
    NVFP4   blocks of 16, step = an E4M3 number / one float32 for the whole tensor                         4.5 bits

**MXFP4**: the power of two is the question, for the largest weight of a block is rarely 6 of them. The OCP standard
takes its exponent, floor(log2 max|w|) - 2, so that it lands in [4, 8) and is cut off at 6 by up to a quarter.
compressed-tensors rounds up where the significand is 1.75 or more, so that it lands in [3.5, 7) and loses a seventh
at most. `rule="floor"` is the standard's (and llama.cpp's), `rule="round"`, the default, is the library's: where
magnitudes are spread evenly, 19% of the scales differ.

**NVFP4** has two levels because E4M3 reaches from 2^-9 to 448 only: the float32 brings the tensor's largest weight to
exactly 6 * 448, then each block's scale is max|w| / 6, times that, in E4M3. Three mantissa bits: the largest weight of
a block is not cut off by more than 1/17. vLLM fuses q, k and v (gate and up) into one layer with one global scale:
`absmax=` takes the largest magnitude of all that share it.

Sources: OCP Microscaling Formats 1.0 (Rouhani et al. 2023, arXiv 2310.10537); NVIDIA, "Introducing NVFP4" (2025);
compressed-tensors 0.19.0 (mxfp4-pack-quantized, nvfp4-pack-quantized) with llm-compressor 0.14's min-max observer, bit
for bit. As there, the parameters are computed in the type of the weights: max|w| / 6 of a bfloat16 model is a bfloat16
number. That has odd ends in float16, which are kept: a global scale above 65504 (no weight above 0.04) becomes 1, and
an MXFP4 step below 2^-24, that of zeros too, becomes 1. A block's scale of 0 becomes 1/8 in NVFP4. Refused with an
error, where the library stores infinity: weights at the very end of their type. Left out: MXFP6, MXFP8, scales chosen
by squared error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Params, Parts, Reference
from quantlab.errors import unknown
from quantlab.formats.fp8 import own_type
from quantlab.formats.minifloat import E2M1, E4M3
from quantlab.layout import layout

RULES = ("round", "floor")
_BIAS = 127  # of E8M0


def _groups(W: Tensor, group: int) -> Tensor:
    """W [n, k] -> [n, k/g, g]."""
    if W.shape[1] % group:
        raise ValueError(f"rows of {W.shape[1]} weights do not divide into groups of {group}; choose a divisor of k")
    return W.reshape(W.shape[0], -1, group)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, float32; 2^-127, the smallest E8M0, for anything below it."""
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent.clamp(min=-_BIAS))


def _encode(W: Tensor, step: Tensor, group: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest E2M1 number of w / step, a quotient of type `dtype`, uint8 [n, k]; an exact zero has no sign."""
    x = (_groups(W, group).float() / step[..., None]).to(dtype)
    return E2M1.encode(x + 0.0).flatten(1)


def _decode(q: Tensor, step: Tensor, group: int) -> Tensor:
    """value * step, float32 [n, k]."""
    return (_groups(E2M1.decode(q), group) * step[..., None]).flatten(1)


@dataclass(frozen=True)
class PowerOfTwoBlocks:
    """MXFP4: 32 weights share a power of two.

    >>> grid = PowerOfTwoBlocks()
    >>> W = torch.tensor([6.0, 5.0, -0.25, 0.1]).repeat(1, 8)
    >>> p = grid.fit(W)
    >>> p["scale"], grid.encode(W, p)[0, :4]
    (tensor([[1.]]), tensor([7, 6, 8, 0], dtype=torch.uint8))
    """

    rule: str = "round"

    bits, group = 4, 32
    scale_dtype = torch.uint8

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """{"scale": float32 [n, k/32]}, powers of two."""
        top = _groups(own_type(W), self.group).abs().amax(-1)
        kind, smallest = torch.finfo(top.dtype), torch.finfo(top.dtype).smallest_normal
        significand, exponent = torch.frexp(top.float())  # top = significand * 2^exponent, significand in [1/2, 1)
        if self.rule == "round":
            exponent, smallest = exponent + (significand >= 1.75 / 2), 0.75 * smallest
        if (exponent > math.frexp(kind.max)[1]).any():
            raise ValueError(f"a group reaches {top.max().item():g}, too near the end of {top.dtype}; rescale it")
        exponent[top < smallest] = -_BIAS  # subnormals count as zero
        scale = _power_of_two(exponent - 3)  # floor(log2 top) - 2
        stored = scale.to(top.dtype).float()
        return {"scale": torch.where(stored == 0, 1.0, stored)}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest of 15 multiples of the step, uint8 [n, k]; halfway, the even code."""
        return _encode(W, p["scale"], self.group, own_type(W).dtype)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """step * value, float32 [n, k]."""
        return _decode(q, p["scale"], self.group)


@dataclass(frozen=True)
class TwoLevelBlocks:
    """NVFP4: 16 weights share an E4M3 scale, all share a float32.

    >>> grid = TwoLevelBlocks()
    >>> W = torch.tensor([[6.0] * 16 + [3.0] * 16])
    >>> p = grid.fit(W)
    >>> p["global_scale"], p["scale"], grid.encode(W, p)[0, ::16]
    (tensor([448.]), tensor([[448., 224.]]), tensor([7, 7], dtype=torch.uint8))
    """

    absmax: float | None = None

    bits, group = 4, 16
    scale_dtype = torch.float8_e4m3fn

    def __post_init__(self) -> None:
        if self.absmax is not None and not 0 < self.absmax < torch.inf:
            raise ValueError(f"absmax must be positive and finite, got {self.absmax}")

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """{"scale": float32 [n, k/16], E4M3 numbers, "global_scale": float32 [1]}."""
        top = _groups(own_type(W), self.group).abs().amax(-1)
        most = top.amax().reshape(1) if self.absmax is None else torch.tensor([self.absmax], dtype=top.dtype)
        share = E4M3.largest * E2M1.largest / most.clamp(min=torch.finfo(top.dtype).tiny)
        share = share.nan_to_num(posinf=1.0).float()
        wanted = (share * (top / E2M1.largest)).clamp(max=E4M3.largest)
        scale = E4M3.decode(E4M3.encode(wanted))
        if not torch.isfinite(scale / share * E2M1.largest).all():
            raise ValueError(f"the weights reach {most.item():g}, too near the end of float32; rescale them")
        return {"scale": torch.where(scale == 0, 0.125, scale), "global_scale": share}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest of 15 multiples of the step, uint8 [n, k]; halfway, the even code."""
        return _encode(W, p["scale"] / p["global_scale"], self.group)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """step * value, float32 [n, k]."""
        return _decode(q, p["scale"] / p["global_scale"], self.group)


@dataclass(frozen=True)
class LowNibbleFirst:
    """Two codes to a byte along each row, and the scales a byte each, named as compressed-tensors names them.

    byte i:   bits 3 2 1 0   S E E M of weight 2i
              bits 7 6 5 4   S E E M of weight 2i + 1
    scale:    bits 7 ... 0   E8M0, the exponent + 127 (MXFP4);   0 E E E E M M M, E4M3 (NVFP4)
    """

    two_level: bool

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"weight_packed": uint8 [n, k/2], "weight_scale": uint8 or float8 [n, k/g], "weight_global_scale": [1]}."""
        packed = q[:, 0::2] | (q[:, 1::2] << 4)
        if not self.two_level:
            exponent = torch.frexp(p["scale"]).exponent - 1 + _BIAS
            return {"weight_packed": packed, "weight_scale": exponent.to(torch.uint8)}
        scale = E4M3.encode(p["scale"]).view(torch.float8_e4m3fn)
        return {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": p["global_scale"]}

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and the scales."""
        packed = parts["weight_packed"]
        q = torch.stack([packed & 15, packed >> 4], -1).reshape(shape)
        if not self.two_level:
            return q, {"scale": _power_of_two(parts["weight_scale"].int() - _BIAS)}
        scale = E4M3.decode(parts["weight_scale"].view(torch.uint8))
        return q, {"scale": scale, "global_scale": parts["weight_global_scale"]}


_REFERENCE = Reference("compressed-tensors", "0.19.0", Fidelity.BIT_EXACT, "on the CPU")
BUILDERS: dict[str, Callable[..., Format]] = {
    "mxfp4": lambda *, rule="round": Format(
        "mxfp4", PowerOfTwoBlocks(rule), LowNibbleFirst(False), layout("mxfp4"), _REFERENCE
    ),
    "nvfp4": lambda *, absmax=None: Format(
        "nvfp4", TwoLevelBlocks(absmax), LowNibbleFirst(True), layout("nvfp4"), _REFERENCE
    ),
}
