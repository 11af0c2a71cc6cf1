"""GPTQ a second time, naively: written from the paper and from the published code's rules, sharing nothing with ours.

`published` follows IST-DASLab/gptq (`GPTQ.fasterquant`, `Quantizer.find_params`) operation for operation: in float32
its codes are the published code's codes. `least_squares` knows nothing of Cholesky factors: after each column it solves
for the best answer of all columns that are left, the paper's equation 1, in float64. It is slow, and true.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Quantizer:
    """The published quantizer of one group: a range that holds 0, mirrored if symmetric."""

    bits: int
    symmetric: bool
    scale: Tensor = field(default_factory=lambda: torch.empty(0))  # [n]
    zero: Tensor = field(default_factory=lambda: torch.empty(0))

    def find_params(self, W: Tensor) -> None:
        nothing = torch.zeros(len(W), dtype=W.dtype)
        low, high = torch.minimum(W.min(1)[0], nothing), torch.maximum(W.max(1)[0], nothing)
        if self.symmetric:
            high = torch.maximum(low.abs(), high)
            low = torch.where(low < 0, -high, low)
        empty = (low == 0) & (high == 0)
        low[empty], high[empty] = -1, 1
        self.scale = (high - low) / (2**self.bits - 1)
        middle = torch.full_like(self.scale, 2**self.bits / 2)
        self.zero = middle if self.symmetric else torch.round(-low / self.scale)

    def codes(self, w: Tensor) -> Tensor:
        return torch.clamp(torch.round(w / self.scale) + self.zero, 0, 2**self.bits - 1)

    def values(self, codes: Tensor) -> Tensor:
        return self.scale * (codes - self.zero)


@dataclass(frozen=True)
class Settings:
    bits: int = 4
    group: int = 128
    symmetric: bool = True
    damp: float = 0.01
    act_order: bool = False
    static_groups: bool = False
    block: int = 128


@dataclass(frozen=True)
class Solved:
    codes: Tensor  # [n, k]
    scale: Tensor  # [n, groups], in the order in which they were fitted
    zero: Tensor


def published(W: Tensor, H: Tensor, to: Settings) -> Solved:
    """The published order of operations, in the type of W; H is copied."""
    W, H = W.clone(), H.to(W.dtype, copy=True)
    n, k = W.shape
    dead = H.diagonal() == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    quantizers = _quantizers(W, to)
    perm = torch.argsort(H.diagonal(), descending=True) if to.act_order else torch.arange(k)
    W, H = W[:, perm], H[perm][:, perm]
    H[torch.arange(k), torch.arange(k)] += to.damp * torch.mean(H.diagonal())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    codes, fitted = torch.empty_like(W), []
    for left in range(0, k, to.block):
        right = min(left + to.block, k)
        inside, errors = W[:, left:right].clone(), torch.empty(n, right - left, dtype=W.dtype)
        for i, column in enumerate(range(left, right)):
            if to.static_groups:
                quantizer = quantizers[perm[column] // to.group]
            elif column % to.group == 0:
                quantizer = Quantizer(to.bits, to.symmetric)
                quantizer.find_params(W[:, column : column + to.group])
                fitted.append(quantizer)
            w = inside[:, i]
            codes[:, column] = quantizer.codes(w)
            errors[:, i] = (w - quantizer.values(codes[:, column])) / inverse[column, column]
            inside[:, i:] -= torch.outer(errors[:, i], inverse[column, column:right])
        W[:, right:] -= errors @ inverse[left:right, right:]
    return _solved(codes[:, perm.argsort()], quantizers if to.static_groups else fitted)


def least_squares(W: Tensor, H: Tensor, to: Settings) -> Solved:
    """Static groups; every column rounded where the best answer to all errors before it has put it. float64."""
    H = H.double() + to.damp * H.double().diagonal().mean() * torch.eye(len(H), dtype=torch.float64)
    quantizers = _quantizers(W, to)
    order = H.diagonal().argsort(descending=True).tolist() if to.act_order else list(range(len(H)))
    target, codes, error = W.double(), torch.zeros_like(W), torch.zeros_like(W, dtype=torch.float64)
    for step, column in enumerate(order):
        done, rest = order[:step], order[step:]
        moved = torch.linalg.solve(H[rest][:, rest], H[rest][:, done] @ error[:, done].T)  # [rest, n]
        quantizer = quantizers[column // to.group]
        codes[:, column] = quantizer.codes(target[:, column] + moved[0]).float()
        error[:, column] = target[:, column] - quantizer.values(codes[:, column]).double()
    return _solved(codes, quantizers)


def _quantizers(W: Tensor, to: Settings) -> list[Quantizer]:
    made = []
    for left in range(0, W.shape[1], to.group):
        made.append(Quantizer(to.bits, to.symmetric))
        made[-1].find_params(W[:, left : left + to.group])
    return made


def _solved(codes: Tensor, quantizers: list[Quantizer]) -> Solved:
    return Solved(codes, torch.stack([q.scale for q in quantizers], 1), torch.stack([q.zero for q in quantizers], 1))
