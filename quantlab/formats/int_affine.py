"""Integer levels: a weight is a scale times a small whole number.

    w_hat = s * (q - z),   q in {0, 1, ..., 2^bits - 1}

Symmetric: z sits in the middle and one scale serves a group, s = max|w| / (2^(bits-1) - 1/2), so that the levels reach
both ends evenly. Asymmetric: s = (max - min) / (2^bits - 1) and z moves the levels to where the weights are.
Groups run along k: each g neighbouring weights of a row share s and z.

Source: Jacob et al. 2018 (eq. 1); the half step of the symmetric grid is that of llm-compressor's 4-bit presets
(compressed-tensors 0.19, `calculate_qparams`: (max - min) / (2^bits - 1) with max = -min). With the same scale the
codes are the same to the last tie. Scales are stored as float16 (as float32 where there is one a row), and the codes
are chosen for the stored scale. Left out: zero points narrower than a byte, packing of 3-bit codes across words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Params, Parts, Reference
from quantlab.layout import layout


def smallest_scale(dtype: torch.dtype) -> float:
    """The smallest positive scale of a type; for float32 a normal number, since some programs flush the others to 0.

    >>> smallest_scale(torch.float16) == 2.0**-24
    True
    """
    info = torch.finfo(dtype)
    return max(info.smallest_normal * info.eps, torch.finfo(torch.float32).smallest_normal)


@dataclass(frozen=True)
class IntAffine:
    """`2**bits` levels for each group of `group` weights; `group=None` is a whole row.

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

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be from 2 to 8, got {self.bits}")

    def _groups(self, W: Tensor) -> Tensor:
        """W [n, k] -> [n, k/g, g]."""
        g = self.group or W.shape[1]
        if W.shape[1] % g:
            raise ValueError(f"rows of {W.shape[1]} weights do not divide into groups of {g}; choose a divisor of k")
        return W.float().reshape(W.shape[0], -1, g)

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """scale [n, k/g] in float32, rounded to what is stored; zero [n, k/g], a whole number or the middle."""
        groups = self._groups(W)
        steps = 2**self.bits - 1
        if self.symmetric:
            top = groups.abs().amax(-1)
            scale, zero = top / (steps / 2), torch.full_like(top, 2 ** (self.bits - 1))
        else:
            low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)  # zero stays a level
            scale = (high - low) / steps
        if not (scale <= torch.finfo(self.scale_dtype).max).all():
            name, top = str(self.scale_dtype).removeprefix("torch."), groups.abs().max()
            raise ValueError(f"a group reaches {top.item():g}, beyond a {name} scale; rescale the weights")
        scale = scale.clamp(min=smallest_scale(self.scale_dtype)).to(self.scale_dtype).float()
        if not self.symmetric:
            zero = (-low / scale).round().clamp(0, steps)
        return {"scale": scale, "zero": zero}

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Codes as floats, element by element (the three broadcast): what GPTQ asks for, one column at a time.

        Halfway between two levels, the even one counted from the middle.
        """
        middle = 2 ** (self.bits - 1)
        q: Tensor = (w / scale + (zero - middle)).round() + middle
        return q.clamp(0, 2**self.bits - 1)

    def value(self, q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """s * (q - z), element by element."""
        return (q - zero) * scale

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest level of each weight, uint8 [n, k]."""
        return self.snap(self._groups(W), p["scale"][..., None], p["zero"][..., None]).to(torch.uint8).flatten(1)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """s * (q - z), float32 [n, k]."""
        return self.value(self._groups(q), p["scale"][..., None], p["zero"][..., None]).flatten(1)


@dataclass(frozen=True)
class BitPlanes:
    """Codes of any width end to end, lowest bit first: k codes of `bits` bits take k * bits / 8 bytes.

    bits=2, codes 1 2 3 0:   byte = 00 11 10 01  (the first code in the lowest bits)
    """

    bits: int
    symmetric: bool = True
    scale_dtype: torch.dtype = torch.float16

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"codes": uint8 [n, k * bits / 8], "scale": [n, k/g], "zero": uint8 (asymmetric only)}."""
        if q.shape[1] * self.bits % 8:
            raise ValueError(f"rows of {q.shape[1]} codes of {self.bits} bits do not fill whole bytes; pad the rows")
        place = torch.arange(self.bits, dtype=torch.uint8)
        bit = (q[..., None] >> place) & 1  # [n, k, bits]
        octets = bit.reshape(len(q), -1, 8)  # [n, bytes, 8]
        codes = (octets << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)
        parts = {"codes": codes, "scale": p["scale"].to(self.scale_dtype)}
        return parts if self.symmetric else {**parts, "zero": p["zero"].to(torch.uint8)}

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and their parameters."""
        bit = (parts["codes"][..., None] >> torch.arange(8, dtype=torch.uint8)) & 1
        place = torch.arange(self.bits, dtype=torch.uint8)
        q = (bit.reshape(len(bit), -1, self.bits) << place).sum(-1, dtype=torch.uint8)
        scale = parts["scale"].float()
        zero = torch.full_like(scale, 2 ** (self.bits - 1)) if self.symmetric else parts["zero"].float()
        return q.reshape(shape), {"scale": scale, "zero": zero}


_PLAIN = Reference("compressed-tensors", "0.19.0", Fidelity.NUMERIC, "same codes for the same scale; our own packing")


def _build(name: str, bits: int, group: int | None) -> Format:
    stored = torch.float32 if group is None else torch.float16  # one scale a row is few enough to keep it exact
    grid, packing = IntAffine(bits, group, scale_dtype=stored), BitPlanes(bits, scale_dtype=stored)
    return Format(name, grid, packing, layout(name), _PLAIN)


BUILDERS = {
    "int8": lambda: _build("int8", 8, None),
    "int4_g128": lambda: _build("int4_g128", 4, 128),
    "int4_g32": lambda: _build("int4_g32", 4, 32),
    "int3_g128": lambda: _build("int3_g128", 3, 128),
    "int2_g128": lambda: _build("int2_g128", 2, 128),
}
