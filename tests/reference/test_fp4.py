"""FP4's own rule: what "the nearest level" leaves open, settled with bitsandbytes."""

from __future__ import annotations

import bitsandbytes
import torch
from torch import Tensor

from quantlab.formats.catalog import get
from quantlab.formats.codebook import FP4, FP4_LEVELS
from quantlab.formats.minifloat import E2M1_LEVELS


def _codes(W: Tensor) -> Tensor:
    packed, _ = bitsandbytes.functional.quantize_4bit(W, quant_type="fp4")
    return torch.stack([packed >> 4, packed & 15], -1).flatten()


def test_the_first_nearest_level_is_not_the_rule() -> None:
    W = torch.randn(500, 640, generator=torch.Generator().manual_seed(1))
    blocks = W.reshape(-1, 64)
    x = blocks / blocks.abs().amax(1, keepdim=True)
    naive = (x[..., None] - FP4_LEVELS).abs().argmin(-1).flatten().to(torch.uint8)
    theirs = _codes(W)
    agree = (naive == theirs).float().mean().item()
    assert 0.99 < agree < 0.999
    differs = naive != theirs
    assert (naive[differs] == 0).all()  # every one of them is a zero ...
    assert (theirs[differs] == 8).all()
    assert (W.flatten()[differs] > 0).all()  # ... of a small positive weight
    assert torch.equal(FP4.nearest(x).flatten(), theirs)


def test_which_zero() -> None:
    smallest = 1e-45
    W = torch.zeros(1, 64)
    W[0, :6] = torch.tensor([1.0, 0.0, -0.0, smallest, -smallest, 0.0026041667])
    assert _codes(W)[:6].tolist() == [3, 0, 0, 8, 0, 8]
    assert FP4.nearest(W)[0, :6].tolist() == [3, 0, 0, 8, 0, 8]


def test_halfway_the_lower_level_wins_whatever_its_sign() -> None:
    W = torch.zeros(1, 64)
    W[0, :3] = torch.tensor([1.0, float(FP4.midpoints[10]), float(FP4.midpoints[4])])
    assert FP4_LEVELS[_codes(W)[:3].int()].tolist() == [1.0, FP4_LEVELS[6].item(), FP4_LEVELS[15].item()]


def test_it_is_not_e2m1() -> None:
    positive = FP4_LEVELS[:8].sort().values * 12
    assert torch.allclose(positive, torch.tensor([0, 1 / 16, 2, 3, 4, 6, 8, 12]))
    assert torch.equal(E2M1_LEVELS[:8] * 2, torch.tensor([0.0, 1, 2, 3, 4, 6, 8, 12]))


def test_its_name_with_double_quantization() -> None:
    W = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    assert get("fp4", double_quant=True).quantize(W).to_bytes() == get("fp4_dq").quantize(W).to_bytes()
    assert get("fp4", double_quant=True).name == "fp4_dq"
