"""How the tests of GGUF's blocks compare bytes, on a llama.cpp that rounds every product and on one that does not.

Ours never fuses a * b + c, nor does llama.cpp compiled for plain x86-64: then every byte is compared. A build that
fuses (ARM, -march=native) makes other bytes than the golden ones. There, and only there, few blocks may differ, and the
squared error of the whole by little: the figures were measured with ggml-quants.c compiled with -march=haswell.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from ggml_oracle import Ggml
from gguf_weights import IMPORTANCE, WEIGHTS, apart, importance, stacked
from golden.block32_cases import IMPORTANCE as KEPT
from golden.block32_cases import digest
from torch import Tensor

from quantlab.core import QuantizedTensor
from quantlab.formats.catalog import FORMATS, quantize_tensor

GOLDEN: dict[str, str] = json.loads((Path(__file__).parent / "golden" / "gguf_blocks.json").read_text())["blocks"]


@functools.cache
def rounds_every_product(ggml: Ggml) -> bool:
    """Whether this build makes the golden bytes for weights where fusing would show (about 1 block in 100)."""
    return all(
        digest(ggml.quantize(kind, WEIGHTS["random"], importance("drawn"))) == GOLDEN[f"{kind} | random | drawn"]
        for kind in ("q4_0", "q5_0", "q4_1", "iq4_nl")
    )


def same(ours: QuantizedTensor, theirs: Tensor, W: Tensor, ggml: Ggml) -> None:
    """Assert that the bytes are C's; where the build fuses, but for one block in ten and 1% of the squared error."""
    mine = ours.parts["blocks"]
    if rounds_every_product(ggml):
        assert torch.equal(mine, theirs)
        return
    nbytes = int(ours.fmt.layout.nbytes)
    different = (mine != theirs).reshape(-1, nbytes).any(1).float().mean()
    error, expected = (
        (values - W).square().sum()
        for values in (ours.dequantize(), ggml.dequantize(ours.fmt.name, theirs, W.shape[1]))
    )
    assert different <= 0.1
    assert (error - expected).abs() <= 0.01 * expected


def importances(name: str) -> tuple[str, ...]:
    """The importance matrices that this format can be given."""
    return IMPORTANCE if FORMATS[name].uses_importance else IMPORTANCE[:1]


def check_golden(name: str) -> None:
    """Our bytes have the golden hashes: proves a format where llama.cpp is not compiled."""
    for kind in KEPT if FORMATS[name].uses_importance else KEPT[:1]:
        made = quantize_tensor(stacked(), name, importance=importance(kind)).parts["blocks"]
        for case, blocks in apart(made).items():
            assert digest(blocks) == GOLDEN[f"{name} | {case} | {kind}"], (case, kind)


def check_hard_weights(name: str, kind: str, ggml: Ggml) -> None:
    """Bytes and values are C's; what C stores as an infinite scale, without a word, we refuse."""
    W, costs = stacked(), importance(kind)
    theirs = ggml.quantize(name, W, costs)
    finite = torch.isfinite(ggml.dequantize(name, theirs, W.shape[1])).all(1)
    for row in W[~finite][:3]:
        with pytest.raises(ValueError, match="beyond a float16 scale"):
            quantize_tensor(row[None], name, importance=costs)
    W, theirs = W[finite], theirs[finite]
    ours = quantize_tensor(W, name, importance=costs)
    same(ours, theirs, W, ggml)
    assert torch.equal(ours.dequantize(), ggml.dequantize(name, ours.parts["blocks"], W.shape[1]))


def check_every_byte(name: str, ggml: Ggml, numbers: int) -> None:
    """Any bytes are a block and decode as in C; only its `numbers` float16, which come first, must be finite."""
    fmt = FORMATS[name]
    nbytes, k = int(fmt.layout.nbytes), 16 * fmt.layout.block
    blocks = torch.randint(0, 256, (64, 16, nbytes), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    blocks[..., 1 : 2 * numbers : 2] &= 0xBB  # clears a bit of the exponent
    blocks = blocks.flatten(1)
    q, p = fmt.packing.unpack({"blocks": blocks}, (64, k))
    assert torch.equal(fmt.grid.decode(q, p), ggml.dequantize(name, blocks, k))
    assert torch.equal(fmt.packing.pack(q, p)["blocks"], blocks)


def check_layer(name: str, W: Tensor, ggml: Ggml) -> None:
    """The bytes of a real layer's weights, without importance and with."""
    same(quantize_tensor(W, name), ggml.quantize(name, W), W.float(), ggml)
    if FORMATS[name].uses_importance:
        costs = importance("drawn", W.shape[1])
        same(quantize_tensor(W, name, importance=costs), ggml.quantize(name, W, costs), W.float(), ggml)


def check_importance_helps(name: str) -> None:
    """The weighted error is smaller with importance than without."""
    W, costs = stacked(["random"]), importance("drawn")
    assert costs is not None
    plain, weighted = (
        ((quantize_tensor(W, name, importance=given).dequantize() - W).square() * costs).sum()
        for given in (None, costs)
    )
    assert weighted < plain
