"""Layers and settings that GPTQModel was given: made of whole numbers, the same in every version of torch."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

N, K = 32, 128


@dataclass(frozen=True)
class Case:
    """How a layer is packed."""

    bits: int
    group: int
    symmetric: bool
    version: int
    desc_act: bool

    @property
    def name(self) -> str:
        kind = f"{'sym' if self.symmetric else 'asym'} v{self.version}{' desc_act' if self.desc_act else ''}"
        return f"{self.bits} bits g{self.group} {kind}"


CASES = tuple(
    Case(bits, group, symmetric, version, desc_act)
    for bits in (2, 3, 4, 8)
    for group, symmetric, version, desc_act in (
        (32, True, 1, False),
        (64, False, 2, False),
        (K, False, 1, False),
        (32, False, 2, True),
        (64, True, 1, True),
    )
)


def numbers(count: int, seed: int) -> list[int]:
    """Whole numbers from 0 to 2^16 - 1: the multiplier is Knuth's (MMIX)."""
    state, found = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        found.append(state >> 48)
    return found


def weights(bits: int) -> dict[str, Tensor]:
    """[32, 128] float32 each; the ties, and the numbers next to them, are those of a grid of so many bits."""
    random = (torch.tensor(numbers(4 * N * K, 1)).reshape(4, N, K) - 2**15).sum(0).float() * 2.0**-19  # bell-shaped
    holes, outlier = random.clone(), random.clone()
    holes[0], holes[1, :64], holes[2, 64:], holes[3, ::2] = 0, 0, -0.0, 0
    outlier[:, 7] = 1000
    sizes = random * 2.0 ** torch.arange(-48, 16, 2)[:, None]
    steps = 2**bits - 1
    ties = (torch.arange(N * K) % (2 * steps + 1) - steps).reshape(N, K) / 2  # halves; the ends make the scale 1
    ties[:, ::4], ties[:, 1::4] = -steps / 2, steps / 2
    above, below = torch.nextafter(ties, torch.tensor(9e9)), torch.nextafter(ties, torch.tensor(-9e9))
    return {
        "random": random,
        "zero groups": holes,
        "one outlier": outlier,
        "of all sizes": sizes,
        "ties": ties,
        "above ties": above,
        "below ties": below,
        "all positive": random.abs() + 0.125,
        "all negative": -random.abs() - 0.125,
        "all equal": torch.full((N, K), -0.375),
        "zeros": torch.zeros(N, K),
    }


def g_idx_of(case: Case) -> Tensor:
    """The group of each input [k], int32: neighbours, or shuffled as act order does."""
    neighbours = torch.arange(K, dtype=torch.int32) // case.group
    if not case.desc_act:
        return neighbours
    order = sorted(range(K), key=numbers(K, 2).__getitem__)
    return neighbours[torch.tensor(order)]


def to_text(part: Tensor) -> str:
    """The bytes of a tensor in base64."""
    return base64.b64encode(part.contiguous().numpy().tobytes()).decode()


def digest(part: Tensor) -> str:
    """The first 64 bits of the hash of the bytes of a tensor."""
    return hashlib.sha256(part.contiguous().numpy().tobytes()).hexdigest()[:16]
