"""bitsandbytes beside a format of ours, one comparison for the reference tests and for the mutants they must kill."""

from __future__ import annotations

import torch
from bitsandbytes import functional
from torch import Tensor

from quantlab.core import Format

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _dequantize(codes: Tensor, state: functional.QuantState) -> Tensor:
    """Its dequantized weights; where it calls torch.compile (large blocks), without waiting for the compiler."""
    with torch.compiler.set_stance("force_eager"):
        return functional.dequantize_4bit(codes, state)


def dequantized_by_rows(fmt: Format, W: Tensor) -> Tensor:
    """What it makes of W [n, k] with the shape it was given."""
    codes, state = functional.quantize_4bit(W, blocksize=fmt.layout.block, quant_type=fmt.name)
    return _dequantize(codes, state)


def difference(fmt: Format, W: Tensor) -> str | None:
    """What of W in `fmt` is not what bitsandbytes makes of it; None when every byte and every value agrees."""
    kind = fmt.name.removesuffix("_dq")
    nested, block = fmt.name != kind, fmt.layout.block
    codes, state = functional.quantize_4bit(
        W.contiguous(), blocksize=block, quant_type=kind, compress_statistics=nested
    )
    Q = fmt.quantize(W)
    if not torch.equal(Q.parts["weight"], codes):
        return f"{int((Q.parts['weight'] != codes).sum())} bytes of codes"
    if not torch.equal(Q.parts["weight.absmax"], state.absmax):
        return "absmax"
    if nested:
        if not torch.equal(Q.parts["weight.nested_absmax"], state.state2.absmax):
            return "nested absmax"
        if not torch.equal(Q.parts["weight.nested_offset"], state.offset):
            return "nested offset"
    if W.shape[1] % block == 0 and not torch.equal(Q.dequantize().to(W.dtype), _dequantize(codes, state)):
        return "dequantized rows"
    state.shape = torch.Size([1, W.numel()])  # as one row its AVX-512 code is right for every shape
    theirs = _dequantize(codes, state)
    ours = Q.dequantize()
    if ours.dtype != torch.float32 or theirs.dtype != W.dtype:
        return "the type of the dequantized weights"
    if not torch.equal(ours.to(W.dtype), theirs.reshape(W.shape)):
        return "dequantized weights"
    return None
