"""Integer levels against compressed-tensors: every boundary between two codes, in every type of weights."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams
from int_weights import adversarial, neighbours, real
from torch import Tensor

from quantlab.formats.int_affine import IntAffine

GROUP = 32
TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
every_width = pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
every_type = pytest.mark.parametrize("dtype", TYPES, ids=str)
either = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])


def _args(bits: int, symmetric: bool) -> QuantizationArgs:
    return QuantizationArgs(num_bits=bits, type="int", strategy="group", group_size=GROUP, symmetric=symmetric)


def _middles(bits: int, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Every level, every middle between two levels, and the numbers up to 3 steps around each; [n, GROUP]."""
    at = torch.arange(-(2 ** (bits + 1)) - 4, 2 ** (bits + 1) + 4, dtype=torch.float64) / 2 * scale.double()
    flat = neighbours(at, dtype, 3)
    return torch.cat([flat, flat.new_zeros(-len(flat) % GROUP)]).reshape(-1, GROUP)


@every_type
@either
@every_width
def test_scales_and_zero_points_are_theirs(bits: int, symmetric: bool, dtype: torch.dtype) -> None:
    for name, weights in adversarial().items():
        W = weights.to(dtype)
        groups = W.reshape(len(W), -1, GROUP)
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), _args(bits, symmetric))
        p = IntAffine(bits, GROUP, symmetric, dtype).fit(W)
        assert torch.equal(p["scale"], scale.float()), name
        assert torch.equal(p["zero"] - 2 ** (bits - 1), zero.float()), name


@pytest.mark.parametrize("dtype", TYPES[:3], ids=str)
@every_width
@pytest.mark.parametrize("scale", [1.0, 0.0123, 3.5e-5, 2.0**-24, 123.5])
def test_codes_are_theirs_at_every_boundary(bits: int, scale: float, dtype: torch.dtype) -> None:
    s = torch.tensor(scale).to(dtype)
    W = _middles(bits, s, dtype)
    middle = 2 ** (bits - 1)
    for zero in (-middle, -1, 0, middle - 1):  # counted from the middle, as they do
        grid = IntAffine(bits, GROUP, zero == 0, dtype)
        p = {"scale": s.float().expand(len(W), 1), "zero": torch.full((len(W), 1), float(zero + middle))}
        stored = {"scale": s.expand(len(W), 1), "zero_point": torch.full((len(W), 1), zero, dtype=torch.int8)}
        theirs = quantize(W, **stored, args=_args(bits, zero == 0), dtype=torch.int8)
        q = grid.encode(W, p)
        assert torch.equal(q.int() - middle, theirs.int())
        fake = fake_quantize(W, **stored, args=_args(bits, zero == 0))
        assert torch.equal(grid.decode(q, p).to(dtype), fake)
        if dtype == torch.float32:
            assert len(q.unique()) == 2**bits, "every code must be met"


@either
@every_width
def test_real_layers_are_theirs(bits: int, symmetric: bool) -> None:
    for name, W in list(real().items())[::3]:
        grid = IntAffine(bits, GROUP, symmetric, torch.float32)
        groups = W.reshape(len(W), -1, GROUP)
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), _args(bits, symmetric))
        p = grid.fit(W)
        assert torch.equal(grid.decode(grid.encode(W, p), p), fake_quantize(W, scale, zero, _args(bits, symmetric))), (
            name
        )


def test_bfloat16_arithmetic_is_coarser_than_a_step_of_8_bits() -> None:
    """The surprise that int_rounding speaks of: 100.6 is no bfloat16, and the code it gives is not the nearest."""
    grid = IntAffine(8, None, True, torch.bfloat16)
    W = torch.linspace(0.01, 1, 512).bfloat16()[None]
    p = grid.fit(W)
    in_bfloat16, in_float32 = grid.encode(W, p), grid.encode(W.float(), p)
    assert (in_bfloat16 != in_float32).any()
    assert (in_bfloat16.int() - in_float32.int()).abs().max() == 1
