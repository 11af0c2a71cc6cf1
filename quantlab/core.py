"""The types that formats and methods share, and the letters they are written in.

    W  [n, k]   weights of a linear layer: n outputs, k inputs         (floating point)
    X  [t, k]   inputs of that layer for t tokens                      (floating point)
    H  [k, k]   X'X, what the inputs say about which errors matter     (float32 or float64)
    q  [n, k]   codes: which level each weight snaps to                (integers)
    s  [n, k/g] scales, one for each group of g weights along k
    z  [n, k/g] zero points, in code units

Three separate questions: which **values** can be stored (a Grid), which **code** each weight gets (a Method), and which
**bytes** hold the codes (a Packing).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from quantlab.layout import Layout

Params = dict[str, Tensor]  # "scale", "zero", ...: what decode needs beside the codes
Parts = dict[str, Tensor]  # named tensors as they are stored


@runtime_checkable
class Grid(Protocol):
    """Which values can be stored."""

    def fit(self, W: Tensor) -> Params:
        """Choose the parameters (scales, zero points) for these weights."""
        ...

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """Codes q [n, k] of the nearest storable values."""
        ...

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """The stored values W_hat [n, k], float32."""
        ...


@runtime_checkable
class Packing(Protocol):
    """Which bytes hold the codes and the parameters."""

    def pack(self, q: Tensor, p: Params) -> Parts:
        """Named tensors as a file would hold them."""
        ...

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The inverse of `pack`."""
        ...


class Fidelity(Enum):
    """How close a format is to the library it is checked against."""

    BIT_EXACT = "bit exact"
    NUMERIC = "numerically equal"
    TEACHING = "for teaching"


@dataclass(frozen=True)
class Reference:
    """The library a learner would deploy, and how closely we follow it."""

    package: str
    version: str
    fidelity: Fidelity
    note: str = ""


@dataclass(frozen=True)
class Format:
    """A name for a grid, a packing, the bytes that they take and their origin."""

    name: str
    grid: Grid
    packing: Packing
    layout: Layout
    reference: Reference

    def divides(self, k: int) -> bool:
        """Whether rows of k weights divide into this format's groups."""
        return k % self.layout.block == 0

    def quantize(self, W: Tensor) -> QuantizedTensor:
        """Round to nearest: fit, encode, pack. W [n, k] of finite floats."""
        check_weights(W)
        p = self.grid.fit(W)
        return QuantizedTensor(self, self.packing.pack(self.grid.encode(W, p), p), (W.shape[0], W.shape[1]))


@dataclass(frozen=True)
class QuantizedTensor:
    """A weight matrix as it is stored."""

    fmt: Format
    parts: Parts
    shape: tuple[int, int]

    def dequantize(self) -> Tensor:
        """W_hat [n, k], float32."""
        q, p = self.fmt.packing.unpack(self.parts, self.shape)
        return self.fmt.grid.decode(q, p)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that must be stored, scales and zero points included."""
        return sum(part.numel() * part.element_size() for part in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight, overhead included."""
        return 8 * self.nbytes / (self.shape[0] * self.shape[1])

    def to_bytes(self) -> bytes:
        """The parts end to end in the order they are stored."""
        return b"".join(part.contiguous().view(torch.uint8).numpy().tobytes() for part in self.parts.values())


def check_weights(W: Tensor) -> None:
    """Raise ValueError unless W is a non-empty matrix of finite floats."""
    if W.ndim != 2 or W.numel() == 0:
        raise ValueError(f"weights must be a non-empty matrix [n, k], got shape {tuple(W.shape)}; reshape them first")
    if not W.is_floating_point():
        raise ValueError(f"weights must be floating point, got {W.dtype}; convert them with W.float()")
    if not torch.isfinite(W).all():
        at = tuple(int(i) for i in (~torch.isfinite(W)).nonzero()[0])
        raise ValueError(f"weights must be finite, W{list(at)} is {W[at].item()}; the checkpoint is damaged")
