"""Small floating-point numbers: a sign, a few exponent bits, a few mantissa bits, and nothing else.

    value = (-1)^S * 2^(E - bias) * (1 + M / 2^m)      E > 0
    value = (-1)^S * 2^(1 - bias) * (0 + M / 2^m)      E = 0, the subnormals: evenly spaced down to zero

    E2M1   S E E M           bias 1    0 .5 1 1.5 2 3 4 6                 the elements of MXFP4 and NVFP4
    E4M3   S E E E E M M M   bias 7    2^-9 ... 448                       FP8 of weights; the scales of NVFP4
    E5M2   S E E E E E M M   bias 15   2^-16 ... 57344, then infinity     FP8 of gradients

Read as whole numbers, the codes of the positive values are in the order of the values: between two powers of two lie
2^m even steps, and the next code after the last of them is the next power of two. So the code of |x| is *count the
steps*, and rounding half to even on the count is rounding half to even on the mantissa bit:

    e = floor(log2 |x|), at least 1 - bias
    code = 2^m * (e - (1 - bias)) + round(|x| / 2^(e - m))

What is too large: E2M1 and E4M3 have no infinity and stay at their largest value; E5M2 rounds up to its infinity.

Sources: OCP 8-bit Floating Point Specification 1.0 (E4M3 and E5M2, from Micikevicius et al. 2022, arXiv 2209.05433);
OCP Microscaling Formats 1.0 (E2M1). Checked bit for bit against torch 2.13's casts, whose E4M3 is `float8_e4m3fn`: all
NaN but one pair of codes given up for values, and infinity saturates as well. Left out: rounding at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from quantlab.errors import unknown
from quantlab.formats.chunks import in_chunks, look_up

_EXPONENT = 0x7F80_0000  # of a float32: its eight exponent bits


@dataclass(frozen=True)
class MiniFloat:
    """A sign bit, `exponent` bits and `mantissa` bits; the first `finite` codes are numbers.

    >>> E4M3.encode(torch.tensor([0.5, -1.0, 17.0, 1e9]))
    tensor([ 48, 184,  88, 126], dtype=torch.uint8)
    >>> E4M3.decode(torch.tensor([48, 184, 88, 126], dtype=torch.uint8))
    tensor([  0.5000,  -1.0000,  16.0000, 448.0000])
    """

    name: str
    exponent: int
    mantissa: int
    finite: int
    infinity: bool = False

    @property
    def bits(self) -> int:
        """Width of a code."""
        return 1 + self.exponent + self.mantissa

    @property
    def first(self) -> int:
        """Exponent of the smallest normal number, 1 - bias: below it the steps stay the same."""
        return 2 - int(2 ** (self.exponent - 1))

    @property
    def largest(self) -> float:
        """The largest number: 6, 448 or 57344."""
        return float(self.positive[self.finite - 1])

    @cached_property
    def positive(self) -> Tensor:
        """The values of the codes without a sign bit, float32 [2^(bits - 1)]: here the bits are read."""
        code = torch.arange(2 ** (self.bits - 1))
        E, M = code >> self.mantissa, code % 2**self.mantissa
        normal = (E > 0).float()
        value: Tensor = (normal + M / 2**self.mantissa) * 2.0 ** (E.clamp(min=1) - 1 + self.first)
        value[self.finite :] = torch.nan
        if self.infinity:
            value[self.finite] = torch.inf
        return value

    @cached_property
    def values(self) -> Tensor:
        """The value of each code, float32 [2^bits]; the second half is the first with the sign bit set."""
        return torch.cat([self.positive, -self.positive])

    def encode(self, x: Tensor) -> Tensor:
        """The nearest value's code, uint8; halfway, the one whose last mantissa bit is 0. NaN becomes all ones."""
        return in_chunks(self._encode, x, torch.uint8)

    def _encode(self, x: Tensor) -> Tensor:
        ceiling = 2.0 ** (self.first + self.finite // 2**self.mantissa - 1) if self.infinity else self.largest
        size = x.float().abs().clamp_(max=ceiling)
        power = size.clamp(min=2.0**self.first).view(torch.int32) & _EXPONENT  # the power of two at or below |x|
        steps = (size / power.view(torch.float32)).mul_(2**self.mantissa).round_()  # torch rounds half to even
        octaves = (power >> 23) - (127 + self.first)
        code = steps.add_(octaves, alpha=2**self.mantissa).nan_to_num_(2.0 ** (self.bits - 1) - 1)
        sign = torch.signbit(x).to(torch.uint8) << (self.bits - 1)
        q: Tensor = code.to(torch.uint8) | sign
        return q

    def decode(self, q: Tensor) -> Tensor:
        """The values of codes, float32."""
        return look_up(self.values, q)


E2M1 = MiniFloat("e2m1", exponent=2, mantissa=1, finite=8)
E4M3 = MiniFloat("e4m3", exponent=4, mantissa=3, finite=127)
E5M2 = MiniFloat("e5m2", exponent=5, mantissa=2, finite=124, infinity=True)
MINIFLOATS = {small.name: small for small in (E2M1, E4M3, E5M2)}

E2M1_LEVELS = E2M1.values  # [16], in the order of the codes


def values(name: str) -> Tensor:
    """All values of a small float, float32, in the order of its codes.

    >>> values("e2m1")[:8]
    tensor([0.0000, 0.5000, 1.0000, 1.5000, 2.0000, 3.0000, 4.0000, 6.0000])
    >>> values("e4m3")[126], values("e4m3")[1] == 2.0**-9
    (tensor(448.), tensor(True))
    """
    if name not in MINIFLOATS:
        raise unknown("small float", name, MINIFLOATS)
    return MINIFLOATS[name].values.clone()
