"""FP8: every bit against torch's casts, every tensor against what compressed-tensors stores."""

from __future__ import annotations

import compressed_tensors
import pytest
import torch
from codebook_cases import around, hard_weights, real_layers
from compressed_tensors_oracle import compressed, difference
from torch import Tensor

from quantlab.formats.catalog import get
from quantlab.formats.minifloat import E4M3, E5M2, MiniFloat

CASTS = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
every_number = pytest.mark.parametrize("number", CASTS, ids=lambda number: number.name)
every_name = pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e4m3_channel", "fp8_e4m3_block128"])


def _cast(x: Tensor, number: MiniFloat) -> Tensor:
    return x.to(CASTS[number]).view(torch.uint8)


@every_number
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_number(number: MiniFloat, dtype: torch.dtype) -> None:
    """All 65,536 of them: infinities, NaN with either sign, subnormals."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    assert torch.equal(number.encode(x), _cast(x, number))


@every_number
def test_every_boundary_of_float32(number: MiniFloat) -> None:
    steps = number.positive[: number.finite]
    halves = (steps[1:] + steps[:-1]) / 2
    ends = torch.tensor([number.largest * 1.03125, number.largest * 1.0714286, 61440, 65536, 3.4e38, 1e-45, torch.inf])
    points = around(torch.cat([steps, halves, ends]))
    for x in (points, -points):
        assert torch.equal(number.encode(x), _cast(x, number))


@every_number
def test_float32_of_every_magnitude(number: MiniFloat) -> None:
    bits = torch.randint(-(2**31), 2**31, (500_000,), generator=torch.Generator().manual_seed(3))
    x = bits.to(torch.int32).view(torch.float32)
    x = x[~x.isnan()]
    assert torch.equal(number.encode(x), _cast(x, number))


@every_number
def test_every_code_is_read_as_torch_reads_it(number: MiniFloat) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    theirs = codes.view(CASTS[number]).float()
    ours = number.decode(codes)
    assert torch.equal(ours.nan_to_num(999), theirs.nan_to_num(999))
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.signbit(), theirs.signbit())
    numbers = ~theirs.isnan()
    assert torch.equal(number.encode(ours)[numbers], codes[numbers])


def test_what_is_too_large() -> None:
    x = torch.tensor([448.0, 464.0, 1e9, torch.inf, -torch.inf])
    assert E4M3.decode(E4M3.encode(x)).tolist() == [448, 448, 448, 448, -448]  # saturates, infinity too
    x = torch.tensor([57344.0, 61439.0, 61440.0, torch.inf])
    assert E5M2.decode(E5M2.encode(x)).tolist() == [57344, 57344, torch.inf, torch.inf]


def test_it_is_the_version_we_name() -> None:
    assert compressed_tensors.__version__ == get("fp8_e4m3").reference.version


@every_name
def test_real_layers(name: str) -> None:
    for layer, W in real_layers().items():
        assert difference(get(name), W) is None, layer


@every_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_hard_weights(name: str, dtype: torch.dtype) -> None:
    for case, W in hard_weights().items():
        if torch.isfinite(W.to(dtype)).all():
            assert difference(get(name), W.to(dtype)) is None, case


@every_name
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scales_stored_in_the_type_of_the_model(name: str, dtype: torch.dtype) -> None:
    """With `scale_dtype`, the very bytes of a 16-bit checkpoint."""
    W = torch.randn(200, 300, generator=torch.Generator().manual_seed(5)).to(dtype)
    stored, _ = compressed(name, W)
    fmt = get(name, scale_dtype=dtype)
    Q = fmt.quantize(W)
    assert Q.parts["weight_scale"].dtype == stored["weight_scale"].dtype == dtype
    assert torch.equal(Q.parts["weight_scale"], stored["weight_scale"])
    assert torch.equal(Q.parts["weight"].view(torch.uint8), stored["weight"].view(torch.uint8))
    assert Q.nbytes == fmt.layout.matrix_bytes(*W.shape)


@pytest.mark.parametrize("shape", [(1, 1), (128, 128), (129, 127), (300, 5), (1, 257)])
def test_squares_that_are_cut_off(shape: tuple[int, int]) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    fmt = get("fp8_e4m3_block128")
    assert difference(fmt, W) is None
    assert fmt.quantize(W).nbytes == fmt.layout.matrix_bytes(*shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_e5m2_is_torchs_cast_of_the_scaled_weights(dtype: torch.dtype) -> None:
    for case, W in real_layers().items():
        W = W.to(dtype)
        Q = get("fp8_e5m2").quantize(W)
        scale = W.abs().max() / 57344
        assert torch.equal(Q.parts["weight"].view(torch.uint8), _cast(W / scale, E5M2)), case
        assert torch.equal(Q.parts["weight_scale"], scale.float().reshape(1))


def test_granularity_is_an_option() -> None:
    W = torch.randn(130, 140, generator=torch.Generator().manual_seed(8))
    for granularity, name in (("channel", "fp8_e4m3_channel"), ("block", "fp8_e4m3_block128")):
        fmt = get("fp8_e4m3", granularity=granularity)
        assert fmt.name == name == fmt.layout.name
        assert fmt.quantize(W).to_bytes() == get(name).quantize(W).to_bytes()
    wide = get("fp8_e5m2", granularity="channel")
    assert wide.quantize(W).nbytes == wide.layout.matrix_bytes(130, 140)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'channel'"):
        get("fp8_e4m3", granularity="chanel")
    with pytest.raises(ValueError, match="scale_dtype must be"):
        get("fp8_e4m3", scale_dtype=torch.float64)
    with pytest.raises(ValueError, match=r"beyond a torch\.float16 scale"):
        get("fp8_e4m3", scale_dtype=torch.float16).quantize(torch.full((2, 2), 1e9))
    for name in ("fp8_e4m3", "nvfp4", "mxfp4", "nf4"):
        with pytest.raises(ValueError, match=r"1e\+300, beyond"):
            get(name).quantize(torch.full((2, 64), 1e300, dtype=torch.float64))
