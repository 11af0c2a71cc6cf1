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
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from quantlab.layout import Layout

Params = dict[str, Tensor]  # "scale", "zero", ...: what decode needs beside the codes
Parts = dict[str, Tensor]  # named tensors as they are stored


@runtime_checkable
class Grid(Protocol):
    """Which values can be stored."""

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """Choose the parameters (scales, zero points) for these weights.

        `importance` [k] says how much an error in each column costs; only grids of formats that use it are given one.
        Beside what is stored, the parameters may hold what `encode` needs and `decode` does not (an inverse scale).
        """
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
    uses_importance: bool = False

    def divides(self, k: int) -> bool:
        """Whether rows of k weights divide into this format's groups."""
        return self.layout.flat or k % self.layout.block == 0

    def quantize(self, W: Tensor, importance: Tensor | None = None) -> QuantizedTensor:
        """Fit, encode, pack. W [n, k] of finite floats; importance [k], for formats that weigh their errors by it."""
        check_weights(W)
        if importance is not None:
            self._check_importance(W, importance)
        p = self.grid.fit(W) if importance is None else self.grid.fit(W, importance)
        return self.store(self.grid.encode(W, p), p)

    def store(self, q: Tensor, p: Params) -> QuantizedTensor:
        """Pack codes q [n, k] that a method chose for the parameters p."""
        return QuantizedTensor(self, self.packing.pack(q, p), (q.shape[0], q.shape[1]))

    def _check_importance(self, W: Tensor, importance: Tensor) -> None:
        if not self.uses_importance:
            raise ValueError(f"{self.name} has no use for importance; leave it out, or take a K-quant such as q4_k")
        if importance.shape != W.shape[1:]:
            raise ValueError(
                f"importance must have one value for each of the {W.shape[1]} columns, "
                f"got shape {list(importance.shape)}; take the statistics of this layer"
            )
        if not (torch.isfinite(importance).all() and (importance >= 0).all()):
            raise ValueError("importance must be finite and not negative; collect the statistics again")


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
        flat = (part.detach().cpu().contiguous().flatten() for part in self.parts.values())
        return b"".join(part.view(torch.uint8).numpy().tobytes() for part in flat)


@dataclass(frozen=True)
class LayerStats:
    """What calibration knows of the inputs X [t, k] of a layer: sums over tokens, never the activations themselves.

    Where the layers before this one are quantized already, X is what they send, and X0 is what they sent before.
    """

    n_tokens: int
    H: Tensor  # [k, k]  X'X, float32 or float64, summed over the tokens
    x_absmean: Tensor  # [k]  mean |x|
    x_absmax: Tensor  # [k]  max |x|
    C: Tensor | None = None  # [k, k]  X0'X; None: not collected, or X0 = X

    def __post_init__(self) -> None:
        k = len(self.x_absmean)
        if self.H.shape != (k, k) or self.x_absmax.shape != (k,) or (self.C is not None and self.C.shape != (k, k)):
            raise ValueError(
                f"statistics of {k} inputs need H and C [{k}, {k}] and x_absmax [{k}], "
                f"got {list(self.H.shape)}, {None if self.C is None else list(self.C.shape)} "
                f"and {list(self.x_absmax.shape)}"
            )
        if self.n_tokens < 1:
            raise ValueError(f"statistics need at least one token, got {self.n_tokens}; calibrate with more text")

    @property
    def x_sqmean(self) -> Tensor:
        """Mean x^2 of each input [k]: the importance of a column, llama.cpp's imatrix."""
        return self.H.diagonal() / self.n_tokens

    def scaled(self, scale: Tensor) -> Self:
        """The statistics of X / scale, scale [k]: what the layer sees once `scale` is folded into its weights."""
        inverse = 1 / scale.to(self.H)
        H, C = (None if S is None else S * inverse[:, None] * inverse for S in (self.H, self.C))
        assert H is not None
        return type(self)(self.n_tokens, H, self.x_absmean / scale, self.x_absmax / scale, C)

    def check(self, W: Tensor) -> None:
        """Raise ValueError unless these can be the statistics of a layer with weights W [n, k]."""
        if W.shape[1] != len(self.x_absmean):
            raise ValueError(
                f"weights of {W.shape[1]} inputs need statistics of as many, these are of {len(self.x_absmean)}: "
                "they belong to another layer"
            )
        if not all(all_finite(S) for S in (self.H, self.C) if S is not None):
            raise ValueError("the statistics are not finite; the activations overflowed, calibrate in float32")


class Quantizer(Protocol):
    """A method: which code each weight gets."""

    def __call__(self, W: Tensor, stats: LayerStats | None, fmt: Format) -> QuantizedTensor:
        """W [n, k] in `fmt`; a pure function of the weights and the statistics of their inputs."""
        ...


def check_weights(W: Tensor) -> None:
    """Raise ValueError unless W is a non-empty matrix of finite floats."""
    if W.ndim != 2 or W.numel() == 0:
        raise ValueError(f"weights must be a non-empty matrix [n, k], got shape {tuple(W.shape)}; reshape them first")
    if not W.is_floating_point():
        raise ValueError(f"weights must be floating point, got {W.dtype}; convert them with W.float()")
    if not all_finite(W):
        at = tuple(int(i) for i in (~torch.isfinite(W)).nonzero()[0])
        raise ValueError(f"weights must be finite, W{list(at)} is {W[at].item()}; the checkpoint is damaged")


def all_finite(values: Tensor) -> bool:
    """Whether none of these is NaN or infinite: one pass, without a copy, since a NaN is both ends.

    >>> all_finite(torch.tensor([1.0, -2.0])), all_finite(torch.tensor([1.0, torch.nan]))
    (True, False)
    """
    return all(bool(torch.isfinite(end)) for end in values.aminmax())


def output_errors(E: Tensor, H: Tensor) -> Tensor:
    """||X e'||^2 of each row [n]: what errors of the weights E [n, k] do to the layer's outputs; H = X'X [k, k].

    e H e' needs only the half of H on and above the diagonal, and so 5/8 of the products, a quarter of the columns at
    a time.

    >>> output_errors(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0], [3.0, 5.0]]))  # 1 + 2 * (2 * 3) + 4 * 5
    tensor([33.])
    """
    found, quarter = E.new_zeros(len(E)), -(-E.shape[1] // 4)
    for lo in range(0, E.shape[1], quarter):
        hi = lo + quarter
        pull = E[:, lo:hi] @ H[lo:hi, lo:hi]
        if lo:
            pull.addmm_(E[:, :lo], H[:lo, lo:hi], alpha=2)
        found += (pull * E[:, lo:hi]).sum(1)
    return found
