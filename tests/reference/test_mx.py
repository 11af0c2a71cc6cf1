"""MXFP4 and NVFP4 against what llm-compressor and compressed-tensors store; OCP's rule against llama.cpp's."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from codebook_cases import around, boundary_blocks, hard_weights, real_layers
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.quantization.quant_args import FP4_E2M1_DATA
from compressed_tensors_oracle import difference
from torch import Tensor

from quantlab.formats.catalog import get
from quantlab.formats.minifloat import E2M1

NAMES = ("mxfp4", "nvfp4")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
every_name = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
TIES = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


def _finite(W: Tensor, dtype: torch.dtype) -> Tensor | None:
    W = W.to(dtype)
    return W if torch.isfinite(W).all() and W.abs().max() < 0.85 * torch.finfo(dtype).max else None


def test_e2m1_is_the_librarys_cast() -> None:
    """Every bfloat16 and float16 number within its range, and every float32 boundary; halves to the even code."""
    short = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    for x in (short.view(torch.bfloat16), short.view(torch.float16), around(torch.cat([TIES, -TIES, E2M1.values]))):
        x = x[x.abs() <= 6][None]
        x = x[:, : x.shape[1] // 2 * 2]
        theirs = pack_fp4_to_uint8(FP4_E2M1_DATA.cast_to_fp4(x.clone()))
        q = E2M1.encode(x + 0.0)
        assert torch.equal(q[:, ::2] | q[:, 1::2] << 4, theirs)


@every_name
def test_real_layers(name: str) -> None:
    for layer, W in real_layers().items():
        assert difference(get(name), W) is None, layer
        assert difference(get(name), W.bfloat16()) is None, layer


@every_name
@every_dtype
def test_hard_weights(name: str, dtype: torch.dtype) -> None:
    for case, W in hard_weights().items():
        same = _finite(W, dtype)
        if same is not None:
            assert difference(get(name), same) is None, case


@every_name
@every_dtype
def test_every_tie_and_its_neighbours(name: str, dtype: torch.dtype) -> None:
    points = torch.cat([TIES, E2M1.positive])
    cases = 0
    for case, W in boundary_blocks(points, get(name).layout.block, 6.0):
        same = _finite(W, dtype)
        if same is not None:
            cases += 1
            assert difference(get(name), same) is None, case
    assert cases >= 7


@every_name
@every_dtype
def test_every_scale(name: str, dtype: torch.dtype) -> None:
    """Groups whose largest weight runs through all magnitudes: each power of two, 1.75 of it, and one ulp around."""
    exponents = torch.arange(-149, 127, dtype=torch.float64)
    tops = (torch.tensor([1.0, 1.5, 1.75, 1.9999, 1.2, 1.0625])[:, None] * 2.0**exponents).flatten().float()
    rows = torch.randn(3 * len(tops), 64, generator=torch.Generator().manual_seed(9)).clamp(-1, 1)
    W = rows * around(tops)[:, None]
    W[:, 0] = around(tops)
    for part in W.split(200):  # NVFP4's scales reach over 2^17 only, so look at few magnitudes at a time too
        same = _finite(part, dtype)
        if same is not None:
            assert difference(get(name), same) is None
    for row in W[::97]:
        same = _finite(row[None], dtype)
        if same is not None:
            assert difference(get(name), same) is None


def test_a_shared_global_scale() -> None:
    """q, k and v as vLLM fuses them: the largest magnitude of all three sets the global scale of each."""
    W = torch.randn(4, 64, generator=torch.Generator().manual_seed(10))
    fused = torch.cat([W, 5 * W])
    together = get("nvfp4").quantize(fused)
    alone = get("nvfp4", absmax=float(fused.abs().max())).quantize(W)
    assert torch.equal(alone.parts["weight_global_scale"], together.parts["weight_global_scale"])
    assert torch.equal(alone.dequantize(), together.dequantize()[:4])


def _llama_cpp(W: Tensor) -> tuple[Tensor, Tensor]:
    """(exponent bytes [n, k/32], dequantized weights) of gguf's MXFP4, which equals llama.cpp's."""
    kind = gguf.GGMLQuantizationType.MXFP4
    blocks = gguf.quants.quantize(W.numpy(), kind)
    scales = torch.from_numpy(blocks.reshape(len(W), -1, 17)[:, :, 0].copy())
    return scales, torch.from_numpy(np.array(gguf.quants.dequantize(blocks, kind)))


def test_the_standards_rule_is_llama_cpps() -> None:
    """Scales equal byte for byte; weights equal but for exact ties (llama.cpp takes the first level in its table)."""
    for layer, W in real_layers().items():
        W = W.float()
        Q = get("mxfp4", rule="floor").quantize(W)
        scales, W_hat = _llama_cpp(W)
        assert torch.equal(Q.parts["weight_scale"], scales), layer
        differs = Q.dequantize() != W_hat
        ours, theirs = ((Q.dequantize() - W).abs(), (W_hat - W).abs())
        assert torch.equal(ours[differs], theirs[differs]), layer
        assert differs.float().mean() < 0.01, layer


def test_the_librarys_rule_is_another() -> None:
    """A significand of 1.75 or more gets the next power of two: a share log2(2 / 1.75) = 19% of magnitudes."""
    tops = 2 ** torch.linspace(-3, 3, 4001)
    W = torch.full((4001, 32), 0.01)
    W[:, 0] = tops
    floor, rounded = (get("mxfp4", rule=rule).quantize(W).parts["weight_scale"].int() for rule in ("floor", "round"))
    assert set((rounded - floor).flatten().tolist()) == {0, 1}
    assert (rounded - floor).float().mean().item() == pytest.approx(np.log2(2 / 1.75), abs=0.01)
    significand = torch.frexp(tops).mantissa * 2
    assert torch.equal((rounded - floor).flatten() == 1, significand >= 1.75)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'floor'"):
        get("mxfp4", rule="flor")
    with pytest.raises(ValueError, match="absmax must be positive"):
        get("nvfp4", absmax=0.0)
    with pytest.raises(ValueError, match=r"too near the end of torch\.float16"):
        get("mxfp4").quantize(torch.full((1, 32), 60000.0, dtype=torch.float16))
    with pytest.raises(ValueError, match=r"too near the end of torch\.float32"):
        get("mxfp4").quantize(torch.full((1, 32), 3.3e38))
    for name, group in (("mxfp4", 32), ("nvfp4", 16)):
        with pytest.raises(ValueError, match=f"rows of 40 weights do not divide into groups of {group}"):
            get(name).quantize(torch.ones(2, 40))
