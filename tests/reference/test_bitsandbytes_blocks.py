"""The bitsandbytes rows of the comparison against bitsandbytes' own modules, as `load_in_4bit` makes them."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor

from quantlab.backends.bitsandbytes import BLOCK, KINDS, available, quantize
from quantlab.errors import UsageError
from quantlab.layout import layout
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers

every_kind = pytest.mark.parametrize("kind", KINDS)


def _module(W: Tensor, kind: str) -> Linear4bit:
    """A layer whose weights bitsandbytes quantizes by itself when it is moved to its device."""
    layer = Linear4bit(
        W.shape[1], W.shape[0], bias=False, compute_dtype=torch.float32, quant_type=kind, compress_statistics=False
    )
    layer.weight.data = W.clone()
    return layer.to("cpu")


def test_it_is_here() -> None:
    assert available() is None


@every_kind
def test_bytes_are_those_of_its_own_module(tiny: LoadedModel, kind: str) -> None:
    for _, layer in list(linear_layers(tiny.model))[:7]:
        W = layer.weight.detach()
        ours, theirs = quantize(W, kind), _module(W, kind)
        state = theirs.weight.quant_state
        assert torch.equal(ours.codes, theirs.weight.data)
        assert torch.equal(ours.state.absmax, state.absmax)
        expected = bitsandbytes.functional.dequantize_4bit(theirs.weight.data, state)
        assert torch.equal(ours.dequantize(), expected)
        assert ours.nbytes == layout(kind).matrix_bytes(*W.shape)


@every_kind
def test_bfloat16_weights_give_the_same_codes(kind: str) -> None:
    """Real models are quantized from bfloat16: going through float32 changes nothing."""
    W = torch.randn(8, 256, generator=torch.Generator().manual_seed(2)).bfloat16()
    ours, theirs = quantize(W, kind), _module(W, kind)
    assert torch.equal(ours.codes, theirs.weight.data)
    assert torch.equal(ours.state.absmax.float(), theirs.weight.quant_state.absmax.float())


def test_nf4_is_the_nearest_level_first_nibble_high() -> None:
    """Spelled out: absmax of each block of 64, the nearest of 16 levels, two codes a byte."""
    W = torch.randn(4, 128, generator=torch.Generator().manual_seed(4))
    Q = quantize(W)
    blocks = W.reshape(-1, BLOCK)
    absmax = blocks.abs().amax(1, keepdim=True)
    code = (blocks[..., None] / absmax[..., None] - Q.state.code).abs().argmin(-1)
    octets = code.reshape(-1, 2)
    assert torch.equal(Q.codes.flatten().long(), octets[:, 0] * 16 + octets[:, 1])
    assert torch.equal(Q.dequantize(), (Q.state.code[code] * absmax).reshape(W.shape))


@every_kind
@pytest.mark.parametrize("shape", [(1, 64), (3, 100), (5, 7), (2, 65)])
def test_blocks_run_on_into_the_next_row(shape: tuple[int, int], kind: str) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    Q = quantize(W, kind)
    assert Q.dequantize().shape == shape
    assert Q.state.absmax.numel() == -(-W.numel() // BLOCK)
    assert ((Q.dequantize() - W).abs() <= 0.2 * W.abs().max()).all()
    assert (quantize(torch.zeros(shape), kind).dequantize() == 0).all()


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="did you mean 'nf4'"):
        quantize(torch.ones(2, 64), "nf5")
    with pytest.raises(ValueError, match="finite"):
        quantize(torch.full((2, 64), torch.nan))
