"""Weights for the integer formats: real layers of both models, and matrices made to break them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from quantlab.models.load import load
from quantlab.models.smollm2 import smollm2_weights

N, K = 32, 256  # every packing takes 32 outputs; every group divides 256


@cache
def real() -> dict[str, Tensor]:
    """Slices of real layers, float32 [32, a multiple of 64]: attention and MLP, first and last block."""
    found = {}
    for model, weights in {"tiny": load("tiny").model.state_dict(), "smollm2": smollm2_weights()}.items():
        layers = {name: W for name, W in weights.items() if name.endswith("_proj.weight")}
        ends = {"0", str(max(int(name.split(".")[2]) for name in layers))}
        found |= {f"{model} {name}": W for name, W in layers.items() if name.split(".")[2] in ends}
    return {name: W[:N].float().contiguous() for name, W in found.items()}


def random(seed: int = 3) -> Tensor:
    """Bell-shaped [32, 256]."""
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


def neighbours(values: Tensor, dtype: torch.dtype, steps: int = 2) -> Tensor:
    """These values in a type, and the next `steps` numbers of it to either side: [values * (2 steps + 1)]."""
    found = [values.to(dtype)]
    for far in (torch.inf, -torch.inf):
        at = found[0]
        for _ in range(steps):
            at = torch.nextafter(at, torch.tensor(far, dtype=dtype))
            found.append(at)
    return torch.cat(found)


def boundaries(dtype: torch.dtype, bits: int, unit: float = 1.0) -> Tensor:
    """Groups of 32 that hold the largest weight and levels, middles and their neighbours at the spacing it gives."""
    top = 2 ** (bits - 1)
    at = torch.arange(-2 * top, 2 * top) / 2 * unit
    values = neighbours(at.double(), torch.float32 if dtype == torch.float64 else dtype).double()
    width = K - K // 32  # 31 values and the one that sets the scale, in each group of 32
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(1))]
    rows = values.repeat(-(-N * width // len(values)))[: N * width].reshape(N, K // 32, 31)
    ends = torch.tensor([top - 0.5, -(top - 0.5), top, -top]).double() * unit
    ends = ends.repeat(N * K // 32)[: N * K // 32].reshape(N, K // 32, 1)
    return torch.cat([ends, rows], -1).reshape(N, K).to(dtype)


def adversarial() -> dict[str, Tensor]:
    """[32, 256] each."""
    W = random()
    outlier, holes, sizes = W.clone(), W.clone(), W.clone()
    outlier[:, 5] = 60_000  # a range of more than 65,504 is refused
    holes[0], holes[1, :128], holes[2, 128:], holes[3, ::2] = 0, 0, -0.0, 0
    sizes *= torch.logspace(-9, 3, N)[:, None]
    ends = torch.full((N, K), 0.25)
    ends[:, ::2] = -0.25
    return {
        "random": W,
        "bfloat16": W.bfloat16(),
        "float16": W.half(),
        "zeros": torch.zeros(N, K),
        "zero groups": holes,
        "one outlier": outlier,
        "of all sizes": sizes,
        "denormal in float16": W * 1e-7,
        "denormal in float32": W * 1e-40,
        "the smallest float32": torch.full((N, K), 1e-45),
        "large": W.clamp(-3, 3) * 1e4,
        "all positive": W.abs() + 1,
        "all negative": -W.abs() - 1,
        "all equal": torch.full((N, K), -0.37),
        "only +-absmax": ends,
        "ties of 4 bits": boundaries(torch.float32, 4),
        "ties of 4 bits in float16": boundaries(torch.float16, 4, 0.0123),
        "ties of 8 bits in bfloat16": boundaries(torch.bfloat16, 8, 0.03),
        "ties of 3 bits": boundaries(torch.float32, 3, 0.37),
        "ties of 2 bits": boundaries(torch.float32, 2, 1e-3),
    }
