"""Weights that try a format of few levels: real layers, and blocks full of decision boundaries, zeros, extremes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from quantlab.models.load import load
from quantlab.models.smollm2 import smollm2_weights
from quantlab.models.walk import linear_layers


@cache
def real_layers() -> dict[str, Tensor]:
    """Linear layers of the bundled model (float32), and rows of SmolLM2's (bfloat16)."""
    layers = {f"tiny {name}": layer.weight.detach() for name, layer in linear_layers(load("tiny").model)}
    for name, W in smollm2_weights().items():
        if any(f"layers.{i}." in name for i in (0, 14, 29)) and W.ndim == 2:
            layers[f"smollm2 {name}"] = W[:48].clone()
    return layers


def around(points: Tensor) -> Tensor:
    """The points, and the next float32 on either side of each."""
    below, above = (torch.nextafter(points, torch.tensor(far)) for far in (-torch.inf, torch.inf))
    return torch.cat([below, points, above])


def boundary_blocks(boundaries: Tensor, block: int, reach: float) -> Iterator[tuple[str, Tensor]]:
    """Rows that are one block each: its largest magnitude, then weights on, and one ulp beside, scaled boundaries.

    `reach` is the magnitude that the largest weight of a block is mapped to: 1 for NF4, 6 for MXFP4.
    """
    beside = around(torch.cat([boundaries, -boundaries]).unique())
    beside = beside[beside.abs() <= reach]
    for top in (reach, 1.0, -1.0, 0.37, -2.9, 3.3e-5, 1e4, 2.0**-20, 1e30, 1e-30):
        points = torch.cat([beside, beside * (1 + 2**-22), beside * (1 - 2**-22)]) * (abs(top) / reach)
        rows = torch.nn.functional.pad(points, (0, -len(points) % (block - 1))).reshape(-1, block - 1)
        yield f"boundaries of {top}", torch.cat([torch.full((len(rows), 1), top), rows], 1)


def short_blocks(boundaries: Tensor, block: int) -> Iterator[tuple[str, Tensor]]:
    """Rows [1, fewer than block]: bitsandbytes divides such a last block by its absmax instead of multiplying."""
    yield "short zeros", torch.zeros(1, block // 2)
    for case, W in boundary_blocks(boundaries, block, 1.0):
        for row in W:
            yield f"short {case}", row[None, : block - 1]


def hard_weights(k: int = 256) -> dict[str, Tensor]:
    """Matrices [n, k] that went wrong somewhere before."""
    normal = torch.randn(6, k, generator=torch.Generator().manual_seed(11))
    outlier, holes = normal * 1e-3, normal.clone()
    outlier[1, 7], outlier[3, 200] = 50, -4e4
    holes[0], holes[1, : k // 2], holes[2, k // 2 :] = 0, 0, -0.0
    spread = normal * torch.logspace(-30, 30, k)
    return {
        "normal": normal,
        "zeros": torch.zeros(3, k),
        "zero groups": holes,
        "negative zeros": torch.full((2, k), -0.0),
        "denormal": torch.full((2, k), 1e-45),
        "many denormals": normal * 1e-40,
        "around the smallest normal": normal * 1.2e-38,
        "tiny": normal * 1e-30,
        "small": normal * 1e-9,
        "large": normal * 1e4,
        "huge": normal.clamp(-3, 3) * 1e37,
        "outliers": outlier,
        "negative": -normal.abs() - 0.1,
        "positive": normal.abs() + 0.1,
        "all equal": torch.full((3, k), -0.37),
        "+-absmax": torch.where(normal > 0, 0.7, -0.7),
        "many magnitudes": spread,
        "bfloat16": normal.bfloat16(),
        "float16": normal.half(),
        "small float16": (normal * 1e-7).half(),
        "one row": normal[:1],
    }
