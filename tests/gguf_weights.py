"""Weights on which GGUF quantizers go wrong, and importance matrices, for the reference, golden and mutant tests."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

K = 512  # two super-blocks


def random(rows: int = 8, k: int = K, seed: int = 5) -> Tensor:
    """Bell-shaped weights [rows, k]."""
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))


def _zeros() -> Tensor:
    W, signs = random(), random(seed=6)
    W[0] = 0
    W[1, :128] = 0
    W[2, 128:] = -0.0
    W[3, ::2] = 0
    W[4] = torch.where(signs[4] < 0, 0.0, -0.0)  # as a pruning mask leaves them
    W[5] = torch.where(signs[5] < 0, 0.0, -0.0)
    W[5, 7] = -1e-20
    W[6, 32:] = 0
    return W


def _around_halves() -> Tensor:
    """Halfway between levels of a scale of 1, and the next float32 to either side; the ends fix the scale."""
    halves = torch.arange(-15, 16) / 2
    near = torch.stack([halves, *(torch.nextafter(halves, torch.tensor(far)) for far in (9e9, -9e9))]).flatten()
    W = near.repeat(8 * K // len(near) + 1)[: 8 * K].reshape(8, -1, 32).clone()
    W[..., 0] = torch.tensor([-8.0, 8.0, -16.0, 15.0, -127.0, 127.0, 7.5, -7.5])[:, None]
    return W.flatten(1)


def _ends() -> Tensor:
    """The largest magnitude on both sides, in either order."""
    W = random().clamp(-2, 2).reshape(8, -1, 32)
    W[..., 3], W[..., 20] = 2.5, -2.5
    W[::2, :, 3], W[::2, :, 20] = -2.5, 2.5
    return W.flatten(1)


def _outlier() -> Tensor:
    W = random() * 1e-3
    W[:, 5] = 50
    return W


WEIGHTS: dict[str, Tensor] = {
    "random": random(),
    "zeros": _zeros(),
    "around halves": _around_halves(),
    "both ends": _ends(),
    "thirds": (random() * 3).round() / 3,
    "whole numbers": (random() * 6).round(),
    "halves": (random() * 6).round() / 2,
    "one outlier": _outlier(),
    "positive": random().abs() + 1,
    "negative": -random().abs() - 1,
    "equal": torch.full((3, K), -0.37),
    "large": random().clamp(-3, 3) * 2e4,
    "scales that are subnormal in float16": random() * 1e-7,
    "scales that vanish in float16": random() * 1e-9,
    "near the smallest that counts": random() * 1e-15,
    "tiny": random() * 1e-30,
    "denormal": random() * 1e-39,
    "very denormal": random() * 1e-42,
    "the smallest": torch.full((2, K), 1e-45),
    "bfloat16": random().bfloat16(),
    "float16": random().half(),
}


def stacked(cases: Iterable[str] = WEIGHTS) -> Tensor:
    """These weights one below the other, float32 [rows, K]: blocks and rows do not see each other."""
    return torch.cat([WEIGHTS[case].float() for case in cases])


def apart(rows: Tensor, cases: Iterable[str] = WEIGHTS) -> dict[str, Tensor]:
    """The inverse of `stacked` for what was made of each row."""
    cases = list(cases)
    return dict(zip(cases, rows.split([len(WEIGHTS[case]) for case in cases]), strict=True))


IMPORTANCE = ("none", "drawn", "ones", "zero", "partly zero", "tiny", "huge")


def importance(kind: str, k: int = K) -> Tensor | None:
    """The importance [k] of this name, None for `none`."""
    drawn = torch.rand(k, generator=torch.Generator().manual_seed(7)) ** 3
    if kind == "partly zero":
        drawn[: k // 4] = 0
    scaled = {"none": None, "drawn": drawn, "ones": torch.ones(k), "zero": torch.zeros(k), "partly zero": drawn}
    return {**scaled, "tiny": drawn * 1e-20, "huge": drawn * 1e18}[kind]
