"""Random layers, and a format that stores codes and parameters as they are: what the laws of GPTQ are tried on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from quantlab.core import Fidelity, Format, LayerStats, Params, Parts, Reference
from quantlab.formats.int_affine import IntAffine
from quantlab.layout import layout

EXACT = Reference("none", "0", Fidelity.TEACHING)


@dataclass(frozen=True)
class Plain:
    """Codes and parameters as they are."""

    desc_act: bool = True

    def pack(self, q: Tensor, p: Params) -> Parts:
        return {"q": q, **p}

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        return parts["q"], {name: part for name, part in parts.items() if name != "q"}


def plain(grid: IntAffine) -> Format:
    return Format("plain", grid, Plain(), layout("fp32"), EXACT)


@dataclass(frozen=True)
class Case:
    W: Tensor
    H: Tensor

    @property
    def stats(self) -> LayerStats:
        size = self.H.diagonal().sqrt()
        return LayerStats(1, self.H, size, size)

    def error(self, W_hat: Tensor, damp: float = 0.0) -> float:
        """tr (W - W_hat)(H + damp)(W - W_hat)', in float64."""
        E, H = (self.W - W_hat).double(), self.H.double()
        H = H + damp * H.diagonal().mean() * torch.eye(len(H), dtype=torch.float64)
        return float(((E @ H) * E).sum())


@st.composite
def cases(draw: st.DrawFn, k: int = 32) -> Case:
    """Weights [n, 32] and an H with strong correlations between inputs."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    n, common = draw(st.integers(1, 6)), draw(st.integers(1, 24))
    W = torch.randn(n, k, generator=generator) * 2.0 ** draw(st.integers(-12, 4))
    X = torch.randn(96, common, generator=generator) @ torch.randn(common, k, generator=generator)
    X = X + torch.randn(96, k, generator=generator) * 0.3
    return Case(W, X.T @ X)


@st.composite
def grids(draw: st.DrawFn) -> IntAffine:
    return IntAffine(draw(st.integers(2, 8)), draw(st.sampled_from([8, 16, None])), draw(st.booleans()), torch.float32)
