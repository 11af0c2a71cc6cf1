"""Random weights for the cases of the exercises, from the generator that a check is given."""

from __future__ import annotations

import random

import torch
from torch import Tensor


def normal(rng: random.Random, *shape: int) -> Tensor:
    """Normal weights of this shape, of the size of a real layer's."""
    generator = torch.Generator().manual_seed(rng.getrandbits(48))
    return 0.05 * torch.randn(shape, generator=generator)
