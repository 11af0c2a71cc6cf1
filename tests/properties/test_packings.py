"""Laws of the packings: codes are bits end to end, nothing is lost, and one grid's values fit in several packings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantlab.core import Packing, Params
from quantlab.formats.awq_pack import ORDER, AwqGemm
from quantlab.formats.catalog import get, quantize_tensor
from quantlab.formats.gptq_pack import GptqWords
from quantlab.formats.int_rounding import rounding
from quantlab.formats.pack_quantized import IntQuantized, PackQuantized
from quantlab.formats.words import IN_ORDER, pack_words, unpack_words

few = settings(max_examples=60, deadline=None)


def codes(bits: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 2**bits, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def parameters(n: int, groups: int, bits: int, seed: int = 0, symmetric: bool = False) -> Params:
    generator = torch.Generator().manual_seed(seed)
    zero = torch.randint(0, 2**bits, (n, groups), generator=generator).float()
    if symmetric:
        zero = torch.full_like(zero, 2 ** (bits - 1))
    return {"scale": torch.rand(n, groups, generator=generator).half().float() + 2.0**-10, "zero": zero}


def survives(packing: Packing, q: Tensor, p: Params) -> None:
    q2, p2 = packing.unpack(packing.pack(q, p), (q.shape[0], q.shape[1]))
    assert q2.dtype == torch.uint8
    assert torch.equal(q2, q)
    assert p2.keys() == p.keys()
    for name, part in p.items():
        assert torch.equal(p2[name].float(), part.half().float() if name == "scale" else part.float()), name


@given(st.integers(1, 8), st.integers(1, 3), st.integers(1, 70), st.sampled_from([IN_ORDER, ORDER]), st.data())
@few
def test_words_are_the_bits_end_to_end(bits: int, n: int, m: int, order: tuple[int, ...], data: st.DataObject) -> None:
    """Against the definition: slot i of a row holds bits i * bits to (i + 1) * bits of one long number."""
    flat = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=n * m, max_size=n * m))
    q = torch.tensor(flat, dtype=torch.uint8).reshape(n, m)
    words = pack_words(q, bits, order)
    assert words.shape == (n, -(-m * bits // 32))
    for row, packed in zip(q.tolist(), words.tolist(), strict=True):
        padded = row + [0] * (-m % 8)
        slots = [padded[8 * eight + code] for eight in range(len(padded) // 8) for code in order]
        whole = sum(code << (bits * i) for i, code in enumerate(slots)) % 2 ** (32 * len(packed))
        assert b"".join(word.to_bytes(4, "little", signed=True) for word in packed) == whole.to_bytes(
            4 * len(packed), "little"
        )
    if order == IN_ORDER or m % 8 == 0:
        assert torch.equal(unpack_words(words, bits, m, order), q)


@given(st.integers(2, 8), st.integers(1, 12), st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 99))
@few
def test_pack_quantized_loses_nothing(
    bits: int, n: int, groups: int, symmetric: bool, per_tensor: bool, seed: int
) -> None:
    groups = 1 if per_tensor else groups
    p = parameters(n, groups, bits, seed, symmetric)
    if per_tensor:
        p = {name: part[:1].expand(n, 1) for name, part in p.items()}
    q = codes(bits, n, groups * 7, seed=seed)
    survives(PackQuantized(bits, symmetric, torch.float16, per_tensor), q, p)
    if bits == 8:
        survives(IntQuantized(symmetric, torch.float16, per_tensor), q, p)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.integers(0, 99))
@few
def test_awq_loses_nothing(eights: int, groups: int, group: int, seed: int) -> None:
    n = 8 * eights
    survives(AwqGemm(), codes(4, n, groups * group, seed=seed), parameters(n, groups, 4, seed))


@given(st.sampled_from([2, 3, 4, 8]), st.sampled_from([1, 2]), st.booleans(), st.integers(0, 99))
@few
def test_gptq_loses_nothing(bits: int, version: int, desc_act: bool, seed: int) -> None:
    n, k, group = 64, 96, 32
    p = parameters(n, k // group, bits, seed)
    if desc_act:
        shuffled = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
        p["g_idx"] = (torch.arange(k) // group)[shuffled].to(torch.int32)
    survives(GptqWords(bits, group, version, desc_act), codes(bits, n, k, seed=seed), p)


@given(st.integers(0, 99), st.sampled_from([32, 64]))
@few
def test_one_grid_several_packings(seed: int, group: int) -> None:
    """The same codes and parameters in three libraries' bytes: other bytes, the same values."""
    n, k = 32, 128
    q, p = codes(4, n, k, seed=seed), parameters(n, k // group, 4, seed)
    stored = [
        get("awq_int4_g128", group=group).store(q, p),
        get("gptq_int4_g128", group=group, version=1).store(q, p),
        get("gptq_int4_g128", group=group, version=2).store(q, p),
        get("gptq_int4_g128", group=group, version=2, desc_act=True).store(q, p),
        get("int4_g128", group=group, symmetric=False).store(q, p),
    ]
    W_hat = stored[0].dequantize()
    assert all(torch.equal(Q.dequantize(), W_hat) for Q in stored)
    assert len({Q.to_bytes() for Q in stored}) == 4, "desc_act with neighbours stores what it stores without"
    assert all(Q.nbytes == Q.fmt.layout.matrix_bytes(n, k) for Q in stored)


def test_version_1_of_zero_point_0() -> None:
    """The borrow runs into the neighbour: a kernel that takes the fields apart reads both wrong."""
    p = {"scale": torch.ones(8, 1), "zero": torch.tensor([8.0, 0, 8, 8, 8, 8, 8, 8])[:, None]}
    packing = GptqWords(4, 8, version=1)
    parts = packing.pack(codes(4, 8, 8), p)
    apart = [(int(parts["qzeros"]) >> shift & 15) + 1 for shift in range(0, 32, 4)]
    assert apart == [8, 16, 7, 8, 8, 8, 8, 8]
    assert torch.equal(packing.unpack(parts, (8, 8))[1]["zero"], p["zero"])


@pytest.mark.parametrize("name", ["int4_g64", "int3_g64", "int2_g64", "gptq_int4_g64", "gptq_int3_g64", "awq_int4_g64"])
def test_options_of_the_names(name: str) -> None:
    W = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    for group in (32, 64, 128, None):
        Q = quantize_tensor(W, name, group=group)
        assert Q.parts[next(part for part in Q.parts if "scale" in part)].numel() == 32 * 256 // (group or 256)
        assert Q.fmt.divides(256)
        assert Q.fmt.layout.name == Q.fmt.name == name
        if group or not name.startswith(("awq", "gptq")):
            assert Q.nbytes == Q.fmt.layout.matrix_bytes(32, 256)


def test_what_packings_refuse() -> None:
    q, p = codes(4, 8, 64), parameters(8, 2, 4)
    shuffled = {**p, "g_idx": torch.arange(64, dtype=torch.int32) % 2}
    for packing, words in (
        (AwqGemm(), "no place for g_idx"),
        (PackQuantized(4, False), "no place for g_idx"),
        (GptqWords(4, 32), "choose desc_act=True, or static groups"),
    ):
        with pytest.raises(ValueError, match=words):
            packing.pack(q, shuffled)
    with pytest.raises(ValueError, match="a symmetric packing stores no zero points, and one is not 8"):
        PackQuantized(4).pack(q, p)
    with pytest.raises(ValueError, match="symmetric=False"):
        IntQuantized().pack(codes(8, 8, 64), parameters(8, 1, 8))
    with pytest.raises(ValueError, match="code 16 does not fit in 4 bits"):
        AwqGemm().pack(torch.full((8, 64), 16, dtype=torch.uint8), p)
    with pytest.raises(ValueError, match=r"in groups of 64 has scales \[8, 1\], got \[8, 2\]"):
        GptqWords(4, 64).pack(q, p)
    with pytest.raises(ValueError, match="beyond a float16 scale"):
        AwqGemm().pack(q, {**p, "scale": p["scale"] * 1e9})
    for bits, n, k, words in (
        (4, 12, 64, "8 outputs of 4 bits together, 12 do not divide"),
        (4, 8, 60, "8 inputs of 4 bits together, 60 do not divide; take int4_g128"),
        (3, 32, 40, "32 inputs of 3 bits together, 40 do not divide"),
        (8, 6, 64, "4 outputs of 8 bits together, 6 do not divide"),
    ):
        with pytest.raises(ValueError, match=words):
            GptqWords(bits, None).pack(codes(bits, n, k), parameters(n, 1, bits))


def test_what_builders_refuse() -> None:
    for bits in (5, 6, 7, 1, 9):
        with pytest.raises(ValueError, match=f"got {bits}"):
            get("gptq_int4_g128", bits=bits)
    with pytest.raises(ValueError, match="version must be 1 or 2, got 3"):
        get("gptq_int4_g128", version=3)
    with pytest.raises(ValueError, match="scale_dtype must be one of float16, bfloat16, float32, got float8_e4m3fn"):
        get("int4_g128", scale_dtype=torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="group must be at least 1, got -1"):
        get("awq_int4_g128", group=-1)
    with pytest.raises(ValueError, match="awq_int4_g128 has no option 'bits'"):
        get("awq_int4_g128", bits=8)


def test_rounding_is_one_question_and_packing_another() -> None:
    assert get("awq_int4_g128").grid.rounding is rounding("autoawq")  # type: ignore[attr-defined]
    assert get("gptq_int4_g128").grid.rounding is rounding("gptq")  # type: ignore[attr-defined]
