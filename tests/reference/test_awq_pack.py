"""awq_int4_g* against AutoAWQ itself: its rounding, its packing, and what it makes of the bytes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from int_references import AwqQuantizer, WQLinear_GEMM, autoawq, same_as_autoawq
from int_weights import adversarial, neighbours, random, real
from torch import nn

from quantlab.formats.awq_pack import AwqGemm
from quantlab.formats.catalog import get, quantize_tensor
from quantlab.formats.int_affine import IntAffine
from quantlab.formats.int_rounding import rounding

WEIGHTS = adversarial()


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_bytes_are_theirs(name: str, group: int) -> None:
    if name == "one outlier":  # 60000 + 3 is a range that float16 holds; twice that is not
        same_as_autoawq(WEIGHTS[name] / 2, get(f"awq_int4_g{group}"), group)
    same_as_autoawq(WEIGHTS[name], get(f"awq_int4_g{group}"), group)


def test_the_bytes_are_theirs_on_real_layers() -> None:
    for W in real().values():
        for group in (64, W.shape[1]):
            same_as_autoawq(W, get("awq_int4_g128", group=group), group)
        same_as_autoawq(W[:, :128].bfloat16(), get("awq_int4_g128"), 128)
    assert len(real()) == 2 * 2 * 7, "seven layers of the first and the last block of two models"


def test_a_whole_row_is_a_group() -> None:
    W = random()
    assert (
        quantize_tensor(W, "awq_int4_g128", group=None).to_bytes()
        == quantize_tensor(W, "awq_int4_g128", group=W.shape[1]).to_bytes()
    )


@pytest.mark.parametrize("zero", [0.0, 3.0, 8.0, 15.0])
@pytest.mark.parametrize("scale", [6.6e-7, 1e-3, 0.0123, 1.0, 1234.5])
def test_codes_at_every_boundary(scale: float, zero: float) -> None:
    """from_linear is given the scales, so that every middle between two levels of every zero point can be met."""
    s = torch.tensor(scale).half()
    W = neighbours((torch.arange(-34, 35) / 2 * s.double()), torch.float16, 3)
    W = torch.cat([W, W.new_zeros(-len(W) % (32 * 32))]).reshape(32, -1)
    p = {"scale": torch.full((32, W.shape[1] // 32), s.item()), "zero": torch.full((32, W.shape[1] // 32), zero)}
    q = IntAffine(4, 32, symmetric=False, rounding=rounding("autoawq")).encode(W, p)
    settled = ((q.float() - zero) * s.float()).half()  # AutoAWQ packs weights that were rounded already
    linear = nn.Linear(W.shape[1], 32, bias=False).half()
    linear.weight.data = settled
    scales, zeros = p["scale"].half().t().contiguous(), p["zero"].half().t().contiguous()
    theirs = WQLinear_GEMM.from_linear(linear, 4, 32, scales=scales, zeros=zeros)
    assert torch.equal(AwqGemm().pack(q, p)["qweight"], theirs.qweight)
    fake = ((W / s).round() + zero).clamp(0, 15)  # the line of pseudo_quantize_tensor that chooses codes
    assert torch.equal(q.float(), fake.float())
    assert len(q.unique()) == 16, "every code must be met"


def test_symmetric_rounding_is_theirs() -> None:
    """AutoAWQ can round without zero points, though it cannot pack the result."""
    for bits in (2, 3, 4, 8):
        grid = IntAffine(bits, 64, symmetric=True, rounding=rounding("autoawq"))
        for name, W in WEIGHTS.items():
            settings = SimpleNamespace(group_size=64, zero_point=False, w_bit=bits)
            theirs, scales, _ = AwqQuantizer.pseudo_quantize_tensor(settings, W.half())
            p = grid.fit(W)
            assert torch.equal(p["scale"], scales.float()), name
            assert torch.equal(grid.decode(grid.encode(W, p), p).half(), theirs), name


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_asymmetric_rounding_of_other_widths_is_theirs(bits: int) -> None:
    grid = IntAffine(bits, 128, symmetric=False, rounding=rounding("autoawq"))
    for name, W in WEIGHTS.items():
        settings = SimpleNamespace(group_size=128, zero_point=True, w_bit=bits)
        theirs, scales, zeros = AwqQuantizer.pseudo_quantize_tensor(settings, W.half())
        p = grid.fit(W)
        assert torch.equal(p["scale"], scales.float()), name
        assert torch.equal(p["zero"], zeros.float()), name
        assert torch.equal(grid.decode(grid.encode(W, p), p).half(), theirs), name


def test_a_range_off_zero_is_lost_there_and_here() -> None:
    """The surprise that int_rounding speaks of: kept, because the bytes must be theirs."""
    W = torch.full((32, 128), 0.37)
    assert quantize_tensor(W, "awq_int4_g128").dequantize().max() < 1.1e-5
    same_as_autoawq(W, get("awq_int4_g128"), 128)


def test_a_range_beyond_float16_is_refused_where_they_give_nan() -> None:
    W = random()
    W[0, 0], W[0, 1] = 60_000, -60_000
    with pytest.raises(ValueError, match="beyond a float16 scale"):
        quantize_tensor(W, "awq_int4_g128")
    with pytest.raises(AssertionError):
        autoawq(W, 128)


def test_fewer_outputs_than_they_can_pack() -> None:
    """AutoAWQ promises multiples of 8 and packs multiples of 32; the words of 8 outputs are the same in both."""
    W = random()
    few = quantize_tensor(W[:8], "awq_int4_g128")
    whole = quantize_tensor(W, "awq_int4_g128")
    assert torch.equal(few.parts["qweight"], whole.parts["qweight"][:, :1])
    with pytest.raises(IndexError):
        autoawq(W[:8], 128)
    with pytest.raises(ValueError, match="8 outputs in a word, 12 outputs do not divide"):
        quantize_tensor(W[:12], "awq_int4_g128")
