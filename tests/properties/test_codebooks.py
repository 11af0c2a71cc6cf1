"""Laws of the formats whose levels are uneven, on weights that nobody thought of."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantlab.core import Format
from quantlab.formats.catalog import get
from quantlab.formats.codebook import FP4, NF4, Codebook, Counter
from quantlab.formats.double_quant import compress, dynamic_map, expand
from quantlab.formats.minifloat import E2M1, E4M3, E5M2, MiniFloat, values

few = settings(max_examples=60, deadline=None)
NAMES = ("nf4", "fp4", "fp8_e4m3", "fp8_e5m2", "fp8_e4m3_channel", "fp8_e4m3_block128", "mxfp4", "nvfp4")
formats = st.sampled_from(NAMES).map(get)
number = st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-30, 1.0, 0.5, 2.0**-24, 448.0, 6.0])


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """[n, 32 or 64] of finite float32 of very different sizes, some rows repeated."""
    n, k = draw(st.integers(1, 3)), draw(st.sampled_from([32, 64]))
    some = draw(st.lists(number, min_size=8, max_size=24))
    return torch.tensor(some * (n * k // len(some) + 1))[: n * k].reshape(n, k)


@given(matrices(), formats)
@few
def test_negation_passes_through(W: Tensor, fmt: Format) -> None:
    """But for NF4, whose levels are not symmetric, and FP4, where a tie goes down on either side of zero."""
    if fmt.layout.flat:
        return
    assert torch.equal(fmt.quantize(-W).dequantize(), -fmt.quantize(W).dequantize())


@given(matrices(), formats, st.integers(-10, 10))
@few
def test_powers_of_two_pass_through(W: Tensor, fmt: Format, exponent: int) -> None:
    """Scaling all weights by 2^e scales W_hat by 2^e and leaves the codes, wherever nothing underflows."""
    factor = math.ldexp(1.0, exponent)
    if W.abs().max() < 1e-3 or ((W != 0) & (W.abs() < 1e-20)).any():
        return
    W_hat, scaled = fmt.quantize(W).dequantize(), fmt.quantize(W * factor).dequantize()
    assert torch.equal(scaled, W_hat * factor)


@given(matrices(), formats)
@few
def test_order_is_kept(W: Tensor, fmt: Format) -> None:
    """Within a group, a larger weight never gets a smaller value."""
    group = fmt.layout.block if fmt.layout.block > 1 else W.shape[1]
    W_hat = fmt.quantize(W).dequantize()
    flat = W.numel() // group * group
    w, w_hat = W.flatten()[:flat].reshape(-1, group), W_hat.flatten()[:flat].reshape(-1, group)
    assert (w_hat.gather(-1, w.argsort(-1)).diff(dim=-1) >= 0).all()


@given(matrices(), formats)
@few
def test_zero_stays_zero_and_nothing_is_infinite(W: Tensor, fmt: Format) -> None:
    W_hat = fmt.quantize(W).dequantize()
    assert torch.isfinite(W_hat).all()
    assert (W_hat[W == 0] == 0).all()


@given(matrices(), st.sampled_from([*NAMES, "nf4_dq", "fp4_dq"]).map(get))
@few
def test_bytes_are_those_of_the_layout_and_unpack(W: Tensor, fmt: Format) -> None:
    Q = fmt.quantize(W)
    assert Q.nbytes == fmt.layout.matrix_bytes(*W.shape)
    p = fmt.grid.fit(W)
    q, stored = fmt.packing.unpack(Q.parts, Q.shape)
    assert torch.equal(q, fmt.grid.encode(W, p))
    assert all(torch.equal(stored[name], p[name]) for name in stored)


@given(st.integers(1, 5), st.integers(1, 150), st.sampled_from(["nf4", "fp4", "nf4_dq"]), st.sampled_from([32, 64]))
@few
def test_any_shape_has_the_bytes_of_its_layout(n: int, k: int, name: str, block: int) -> None:
    fmt = get(name, block=block)
    Q = fmt.quantize(torch.randn(n, k))
    assert Q.nbytes == fmt.layout.matrix_bytes(n, k)
    assert Q.dequantize().shape == (n, k)


unit = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50).map(lambda x: torch.tensor(x, dtype=torch.float32))


@given(unit, st.sampled_from([NF4, FP4]))
@few
def test_the_nearest_level_is_the_nearest(x: Tensor, codebook: Codebook) -> None:
    distance = (x.double()[:, None] - codebook.levels.double()).abs()
    chosen = distance.gather(1, codebook.nearest(x).long()[:, None])
    assert torch.allclose(chosen[:, 0], distance.amin(1), rtol=0, atol=2**-25)


@given(unit, st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=12, unique=True))
@few
def test_counting_in_cells_is_a_binary_search(x: Tensor, thresholds: list[float]) -> None:
    ordered = torch.tensor(sorted(set(thresholds)))
    if len(ordered) > 1 and ordered.diff().min() < 2**-12:
        return
    points = torch.cat([x, ordered, torch.tensor([-1.0, 1.0])])
    assert torch.equal(Counter(ordered).count(points), torch.bucketize(points, ordered))


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=600))
@few
def test_double_quantization_is_within_half_a_step_of_its_block(some: list[float]) -> None:
    absmax = torch.tensor(some, dtype=torch.float32)
    p = compress(absmax)
    widest = dynamic_map().diff().max() / 2 + 2e-5  # half of its widest gap, and half a step of the table of points
    reach = p["absmax2"].repeat_interleave(256)[: len(absmax)]
    assert ((expand(p) - absmax).abs() <= widest * reach + 1e-5 * (reach + p["offset"]).abs()).all()


@given(st.sampled_from([E2M1, E4M3, E5M2]), unit, st.integers(-20, 8))
@few
def test_a_small_float_is_the_nearest_of_its_values(small: MiniFloat, x: Tensor, exponent: int) -> None:
    x = torch.ldexp(x, torch.tensor(exponent)).clamp(-small.largest, small.largest)
    finite = small.values.double()
    finite = finite[finite.isfinite()]
    error = (small.decode(small.encode(x)).double() - x.double()).abs()
    assert torch.equal(error, (x.double()[:, None] - finite).abs().amin(1))


def test_a_small_float_has_its_values_in_order() -> None:
    for small in (E2M1, E4M3, E5M2):
        assert (small.positive[: small.finite].diff() > 0).all()
        assert values(small.name).shape == (2**small.bits,)
    with pytest.raises(ValueError, match="did you mean 'e4m3'"):
        values("e4m3fn")


@pytest.mark.parametrize("block", [0, 16, 48, 8192])
def test_blocks_that_the_library_does_not_take(block: int) -> None:
    with pytest.raises(ValueError, match=f"block must be one of 32, .* got {block}"):
        get("nf4", block=block)


def test_absmax_values_beyond_float32_together() -> None:
    with pytest.raises(ValueError, match="beyond float32; rescale"):
        get("nf4_dq").quantize(torch.full((8, 64), 3e38))
