"""Our integer levels against compressed-tensors, the format behind llm-compressor's INT8 and INT4 checkpoints."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from torch import Tensor

from quantlab.formats.int_affine import IntAffine, smallest_scale

GROUP = 32
every_width = pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])


def _args(bits: int, symmetric: bool) -> QuantizationArgs:
    return QuantizationArgs(num_bits=bits, type="int", strategy="group", group_size=GROUP, symmetric=symmetric)


def _groups() -> Tensor:
    """[n, k] with random, one-sided, constant and lopsided groups, from large to nearly denormal."""
    W = torch.randn(24, 4 * GROUP, generator=torch.Generator().manual_seed(5))
    W[1] = W[1].abs()
    W[2] = -W[2].abs()
    W[3] = 0.37
    W[4, 7] = 100
    W[5] *= torch.logspace(-6, 3, W.shape[1])
    W[6:12] = W[6:12].bfloat16().float()
    return W


def _near_boundaries(scale: float, bits: int) -> Tensor:
    """Every level, every middle between two levels, and the floats up to 3 steps around each; [n, GROUP]."""
    at = torch.arange(-(2**bits) - 4, 2**bits + 4, dtype=torch.float64) / 2 * scale
    values = [at.float()]
    for far in (torch.inf, -torch.inf):
        moved = at.float()
        for _ in range(3):
            moved = torch.nextafter(moved, torch.tensor(far))
            values.append(moved)
    flat = torch.cat(values)
    return torch.cat([flat, flat.new_zeros(-len(flat) % GROUP)]).reshape(-1, GROUP)


@every_width
def test_symmetric_scales_are_theirs(bits: int) -> None:
    W = _groups()
    groups = W.reshape(len(W), -1, GROUP)
    theirs, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), _args(bits, symmetric=True))
    assert (zero == 0).all()
    exact = IntAffine(bits, GROUP, scale_dtype=torch.float32).fit(W)["scale"]
    assert torch.equal(exact, theirs)
    stored = IntAffine(bits, GROUP).fit(W)["scale"]
    assert torch.equal(stored, theirs.clamp(min=smallest_scale(torch.float16)).half().float())


@every_width
@pytest.mark.parametrize("scale", [1.0, 0.0123, 3.5e-5, 2.0**-24, 1234.5])
def test_symmetric_codes_are_theirs_at_every_boundary(bits: int, scale: float) -> None:
    grid = IntAffine(bits, GROUP)
    s = torch.tensor(scale).half().float()
    W = _near_boundaries(s.item(), bits)
    p = {"scale": s.expand(len(W), 1), "zero": torch.full((len(W), 1), 2.0 ** (bits - 1))}
    theirs = fake_quantize(W, p["scale"], torch.zeros(len(W), 1, dtype=torch.int8), _args(bits, symmetric=True))
    assert torch.equal(grid.decode(grid.encode(W, p), p), theirs)
    assert len(grid.encode(W, p).unique()) == 2**bits, "every code must be met"


@every_width
def test_symmetric_weights_are_theirs(bits: int) -> None:
    grid, W = IntAffine(bits, GROUP), _groups()
    p = grid.fit(W)
    theirs = fake_quantize(W, p["scale"], torch.zeros_like(p["scale"], dtype=torch.int8), _args(bits, symmetric=True))
    assert torch.equal(grid.decode(grid.encode(W, p), p), theirs)


@every_width
def test_asymmetric_weights_are_theirs(bits: int) -> None:
    """Their codes start at -2^(bits-1) instead of 0, and so do their zero points."""
    grid, W = IntAffine(bits, GROUP, symmetric=False, scale_dtype=torch.float32), _groups()
    groups, args = W.reshape(len(W), -1, GROUP), _args(bits, symmetric=False)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    p = grid.fit(W)
    assert torch.equal(p["scale"], scale)
    assert torch.equal(p["zero"] - 2 ** (bits - 1), zero.float())
    assert torch.equal(grid.decode(grid.encode(W, p), p), fake_quantize(W, scale, zero, args))
