"""int8 and int*_g* against compressed-tensors' own compressors: every tensor of a checkpoint, bit for bit."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationArgs
from int_references import args_of, compressed_tensors, same_as_compressed_tensors
from int_weights import K, N, adversarial, random, real

from quantlab.core import QuantizedTensor
from quantlab.formats.catalog import get, quantize_tensor
from quantlab.formats.int_affine import IntAffine
from quantlab.formats.pack_quantized import IntQuantized, PackQuantized

WEIGHTS = adversarial()
TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
every_type = pytest.mark.parametrize("dtype", TYPES)
either = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])


@every_type
@either
@pytest.mark.parametrize("name", ["int4_g32", "int4_g64", "int4_g128", "int3_g64", "int3_g128", "int2_g128"])
def test_the_bytes_are_theirs(name: str, symmetric: bool, dtype: str) -> None:
    fmt = get(name, symmetric=symmetric, scale_dtype=dtype)
    bits, group = fmt.grid.bits, fmt.grid.group  # type: ignore[attr-defined]
    for W in WEIGHTS.values():
        assert same_as_compressed_tensors(W.to(TYPES[dtype]), fmt, args_of(bits, group, symmetric)).shape == (N, K)


@every_type
@either
def test_the_bytes_are_theirs_on_real_layers(symmetric: bool, dtype: str) -> None:
    for W in real().values():
        same_as_compressed_tensors(
            W.to(TYPES[dtype]), get("int4_g64", symmetric=symmetric, scale_dtype=dtype), args_of(4, 64, symmetric)
        )


@either
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
def test_every_width_and_odd_rows(bits: int, symmetric: bool) -> None:
    """Rows that end inside a word, outputs that end inside a word of zero points."""
    for n, k in ((32, 256), (5, 96), (7, 37), (1, 1), (3, 33)):
        W = random()[:n, :k].contiguous()
        for group in (None, k):
            ours = PackQuantized(bits, symmetric, torch.float32)
            grid = IntAffine(bits, group, symmetric, torch.float32)
            p = grid.fit(W)
            parts = ours.pack(grid.encode(W, p), p)
            theirs, W_hat = compressed_tensors(W, args_of(bits, group, symmetric))
            for name, part in theirs.items():
                assert torch.equal(parts[name], part), (n, k, name)
            q, p2 = ours.unpack(parts, (n, k))
            assert torch.equal(grid.decode(q, p2), W_hat)


@every_type
@either
@pytest.mark.parametrize("per_tensor", [False, True], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("packed", [False, True], ids=["int-quantized", "pack-quantized"])
def test_int8_is_theirs(packed: bool, per_tensor: bool, symmetric: bool, dtype: str) -> None:
    fmt = get("int8", packed=packed, per_tensor=per_tensor, symmetric=symmetric, scale_dtype=dtype)
    how = "pack-quantized" if packed else "int-quantized"
    for W in (*WEIGHTS.values(), *list(real().values())[::5]):
        same_as_compressed_tensors(W.to(TYPES[dtype]), fmt, args_of(8, None, symmetric, per_tensor), how)


def test_float16_scales_of_float32_weights_are_what_their_scale_dtype_gives() -> None:
    """The default: the scales are rounded to float16 first, and the codes are chosen for those."""
    for symmetric in (True, False):
        for name, W in WEIGHTS.items():
            W = W.float()
            args = QuantizationArgs(
                num_bits=4, type="int", strategy="group", group_size=128, symmetric=symmetric, scale_dtype=torch.float16
            )
            theirs, W_hat = compressed_tensors(W, args)
            ours = quantize_tensor(W, "int4_g128", symmetric=symmetric)
            for part, stored in theirs.items():
                assert torch.equal(ours.parts[part].to(stored.dtype), stored), (name, part)
            assert torch.equal(ours.dequantize(), W_hat), name


def test_what_they_store_is_read() -> None:
    """Their bytes in our hands: a checkpoint made elsewhere."""
    theirs, W_hat = compressed_tensors(random(), args_of(4, 32, False))
    fmt = get("int4_g32", symmetric=False, scale_dtype="float32")
    assert torch.equal(QuantizedTensor(fmt, theirs, (N, K)).dequantize(), W_hat)


@pytest.mark.parametrize("bits", range(2, 9))
def test_packing_alone_is_theirs(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (9, 77), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))
    signed = (codes.int() - 2 ** (bits - 1)).to(torch.int8)
    p = {"scale": torch.ones(9, 1), "zero": torch.full((9, 1), 2.0 ** (bits - 1))}
    packed = PackQuantized(bits).pack(codes, p)["weight_packed"]
    assert torch.equal(packed, pack_to_int32(signed, bits))
    assert torch.equal(unpack_from_int32(packed, bits, codes.shape), signed)


def test_signed_bytes_count_from_the_middle() -> None:
    q = torch.arange(256, dtype=torch.uint8).reshape(1, -1)
    p = {"scale": torch.ones(1, 1), "zero": torch.full((1, 1), 128.0)}
    assert IntQuantized().pack(q, p)["weight"].tolist() == [list(range(-128, 128))]
