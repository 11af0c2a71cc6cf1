"""Weights for the K-quants, made of nothing but Python's random numbers, which are the same everywhere.

Each case is a matrix [n, 256]: one super-block a row. All can be stored by every K-quant.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

K = 256
TYPES = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")


def uniform(n: int, k: int, seed: int, low: float = -1, high: float = 1) -> Tensor:
    """[n, k] evenly between low and high."""
    numbers = random.Random(seed)
    return (
        torch.tensor([numbers.random() for _ in range(n * k)], dtype=torch.float64).reshape(n, k) * (high - low) + low
    )


def bell(n: int, seed: int) -> Tensor:
    """[n, 256] bell-shaped, of variance 1."""
    return sum(uniform(n, K, 100 * seed + i) for i in range(3)).float()


def _zeros() -> Tensor:
    W = bell(5, 1)
    W[0], W[1, :128], W[2, 128:], W[3, 16:], W[4, ::2] = 0, 0, -0.0, 0, 0
    return W


def _denormal() -> Tensor:
    return torch.cat([torch.full((1, K), 1e-45), (uniform(2, K, 2) * 20).round() * 1e-45]).float()


def _equal() -> Tensor:
    return torch.tensor([-0.37, 0.37, -1e-12])[:, None].expand(3, K).clone()


def _almost_equal() -> Tensor:
    """Three neighbouring float32 numbers: what a line gains is less than what float32 rounds away."""
    steps = uniform(6, K, 4, 0, 3).floor()
    ulp = torch.tensor([2.0**-14, 2.0**-14, 2.0**-24, 2.0**-24, 2.0**-14, 2.0**-24])[:, None]
    start = torch.tensor([-1000.0, -1000, -1, -1, 1000, 1])[:, None]
    steps[1::2] *= uniform(3, K, 5) > 0.8  # most of them the same
    return (start + steps * ulp).float()


def _ties() -> Tensor:
    """Whole numbers and halves, and the float32 numbers next to them."""
    halves = ((uniform(3, K, 6) * 30).round() / 2).float()
    return torch.cat([halves, torch.nextafter(halves, torch.tensor(9e9)), torch.nextafter(halves, torch.tensor(-9e9))])


def _outliers() -> Tensor:
    W = bell(4, 7) * 1e-3
    W[0, 5], W[1, 200] = 50, -50
    W[2], W[3] = 0, 0
    W[2, 77], W[3, 78] = -0.7, 0.7
    return W


def _uneven() -> Tensor:
    """Sub-blocks of very different sizes: some scales are rounded to zero."""
    size = torch.cat(
        [uniform(4, 16, 8, -9, 0).repeat_interleave(16, 1), uniform(4, 8, 9, -9, 0).repeat_interleave(32, 1)]
    )
    return bell(8, 8) * size.exp().float()


def _far_off() -> Tensor:
    """Almost equal weights on two heights: what dmin m is off by is millions of steps of the smaller ones' scale."""
    steps, base = uniform(8, K, 10, 0, 2).floor(), -8 - 0.875 * torch.arange(8)[:, None]
    return torch.cat([-1000 - steps[:, :128] * 2**-14, base - steps[:, 128:] * 2**-20], 1).float()


def _levels() -> Tensor:
    """Sub-blocks of 16 on levels of one scale, most of them; the others halfway between two."""
    W = (uniform(3, K, 14) * 31).round()
    W[:, ::16] = -32
    W[:, 20::48] += 0.5
    return W.float()


@functools.cache
def _few_values() -> Tensor:
    """Whole numbers of few sizes: where most importances are zero, all that counts of a sub-block can be equal.

    In the last row a line fitted to rounding noise falls; its scale, below zero, wraps to 255 and spills.
    """
    n = 468
    size = 2 ** uniform(n, 8, 16, 0, 6).floor().repeat_interleave(32, 1)
    return ((uniform(n, K, 15) * 4).round() * size * 0.37).float()[[0, 1, n - 1]]


CASES: dict[str, Callable[[], Tensor]] = {
    "bell": lambda: bell(6, 0) * 0.02,
    "zeros": _zeros,
    "denormal": _denormal,
    "tiny": lambda: bell(2, 2) * 1e-30,
    "near 1e-15": lambda: bell(3, 3) * 1e-15,
    "below the smallest float16": lambda: bell(3, 4) * 1e-9,
    "large": lambda: bell(2, 5) * 1e5,
    "all positive": lambda: bell(3, 6).abs() + 1,
    "all negative": lambda: -bell(3, 6).abs() - 1,
    "all equal": _equal,
    "almost equal": _almost_equal,
    "ties": _ties,
    "outliers": _outliers,
    "uneven": _uneven,
    "heavy tails": lambda: bell(4, 9) ** 5,
    "far off": _far_off,
    "levels and halves": _levels,
    "few values": _few_values,
    "bfloat16": lambda: bell(2, 12).bfloat16(),
    "float16": lambda: bell(2, 13).half(),
}


def importances() -> dict[str, Tensor | None]:
    """What columns are worth: nothing known, squares, very different, many nothing, all nothing, at float32's ends."""
    wide = uniform(1, K, 20, -7, 7)[0].exp().float()
    return {
        "none": None,
        "squares": bell(1, 21)[0] ** 2,
        "wide": wide,
        "many zero": wide * (uniform(1, K, 22)[0] > torch.linspace(-0.5, 1, K)).float(),
        "zero": torch.zeros(K),
        "tiny": wide * 1e-38,
        "extreme": torch.tensor([math.pow(10, e) for e in uniform(1, K, 23, -30, 25)[0].tolist()], dtype=torch.float32),
    }
