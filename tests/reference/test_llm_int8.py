"""llm_int8 against bitsandbytes itself: its codes, its row maxima, and what it makes of them."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes import functional
from int_weights import adversarial, neighbours, random, real
from torch import Tensor

from quantlab.formats.catalog import get, quantize_tensor

WEIGHTS = {name: W for name, W in adversarial().items() if torch.isfinite(W.half()).all()}
TYPES = (torch.float32, torch.bfloat16, torch.float16)


def difference(W: Tensor) -> str | None:
    """What of W differs; None when every byte and every value agrees."""
    codes, rows, _ = functional.int8_vectorwise_quant(W.half())  # as Int8Params casts it
    Q = quantize_tensor(W, "llm_int8")
    if not torch.equal(Q.parts["SCB"], rows):
        return "SCB"
    if not torch.equal(Q.parts["weight"], codes):
        return f"{int((Q.parts['weight'] != codes).sum())} codes"
    if not torch.equal(Q.dequantize(), functional.int8_vectorwise_dequant(codes, rows)):
        return "dequantized weights"
    return None


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_bytes_are_theirs(name: str, dtype: torch.dtype) -> None:
    assert difference(WEIGHTS[name].to(dtype)) is None


def test_the_bytes_are_theirs_on_real_layers() -> None:
    for W in real().values():
        assert difference(W) is None


@pytest.mark.parametrize("top", [127.0, 1.0, 0.37, 6e-8])
def test_codes_at_every_boundary(top: float) -> None:
    """The middles between two steps and the float16 numbers beside them, in rows whose largest weight is `top`."""
    middles = neighbours(torch.arange(-255, 256) / 2 * torch.tensor(top).half().double() / 127, torch.float16, 3)
    middles = middles[middles.abs() <= torch.tensor(top).half()]
    W = torch.cat([middles, middles.new_zeros(-len(middles) % 64)]).reshape(-1, 64)
    assert difference(torch.cat([W, torch.full((len(W), 1), top, dtype=W.dtype)], 1)) is None


def test_zeros_and_what_float16_cannot_hold() -> None:
    W = random()
    W[0], W[1] = 0, 1e-9
    assert difference(W) is None
    with pytest.raises(ValueError, match="beyond a float16 scale"):
        get("llm_int8").quantize(torch.full((1, 4), 1e6))
