"""Laws of the integer grid on weights that nobody thought of."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantlab.formats.int_affine import BitPlanes, IntAffine, smallest_scale

few = settings(max_examples=60, deadline=None)


@st.composite
def matrices(draw: st.DrawFn, group: int = 8) -> Tensor:
    """[n, k] of finite float32 within float16's scales, of very different sizes."""
    n, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    number = st.floats(-6e4, 6e4, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-30, 1.0, 0.5, 2.0**-24])
    values = draw(st.lists(number, min_size=n * groups * group, max_size=n * groups * group))
    return torch.tensor(values, dtype=torch.float32).reshape(n, -1)


@st.composite
def grids(draw: st.DrawFn) -> IntAffine:
    stored = draw(st.sampled_from([torch.float16, torch.float32]))
    return IntAffine(draw(st.integers(2, 8)), draw(st.sampled_from([8, 4, None])), draw(st.booleans()), stored)


@given(matrices(), grids())
@few
def test_error_is_at_most_half_a_step_and_the_rounding_of_the_scale(W: Tensor, grid: IntAffine) -> None:
    p = grid.fit(W)
    W_hat = grid.decode(grid.encode(W, p), p)
    g = grid.group or W.shape[1]
    step = p["scale"].repeat_interleave(g, dim=1)
    steps = 2**grid.bits - 1
    # a float16 scale is off by at most 2^-11 of itself, or by half of 2^-24; at the far end that adds up `steps` times
    slack = steps * (step * 2**-11 + smallest_scale(grid.scale_dtype) / 2)
    moved = 0.5 * step if not grid.symmetric else 0  # a zero point is rounded to a whole number as well
    assert ((W_hat - W).abs() <= 0.5 * step * (1 + 1e-5) + slack + moved).all()


@given(matrices(), grids())
@few
def test_decoded_weights_are_fixed_points_and_zero_is_a_level(W: Tensor, grid: IntAffine) -> None:
    p = grid.fit(W)
    W_hat = grid.decode(grid.encode(W, p), p)
    assert torch.equal(grid.decode(grid.encode(W_hat, p), p), W_hat)
    assert (grid.decode(grid.encode(torch.zeros_like(W), p), p) == 0).all()


@given(matrices(), grids(), st.integers(-8, 8))
@few
def test_powers_of_two_pass_through(W: Tensor, grid: IntAffine, exponent: int) -> None:
    """Scaling weights by 2^e scales W_hat by 2^e and leaves the codes, wherever the scale stays a normal number."""
    p, factor = grid.fit(W), math.ldexp(1.0, exponent)
    normal = torch.finfo(grid.scale_dtype).smallest_normal * 2**9
    lost = (W * factor / factor != W).any()
    if lost or p["scale"].min() < normal or p["scale"].max() > 200:
        return
    p2 = grid.fit(W * factor)
    assert torch.equal(grid.encode(W, p), grid.encode(W * factor, p2))
    assert torch.equal(grid.decode(grid.encode(W, p), p) * factor, grid.decode(grid.encode(W * factor, p2), p2))


@given(matrices(), grids())
@few
def test_order_is_kept(W: Tensor, grid: IntAffine) -> None:
    """A larger weight of a group never gets a smaller code."""
    g = grid.group or W.shape[1]
    q = grid.encode(W, grid.fit(W)).reshape(W.shape[0], -1, g).int()
    by_weight = q.gather(-1, W.reshape(W.shape[0], -1, g).argsort(-1))
    assert (by_weight.diff(dim=-1) >= 0).all()


@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 3), st.data())
@few
def test_packing_is_the_bits_end_to_end(bits: int, n: int, octets: int, data: st.DataObject) -> None:
    """Against the definition, a bit at a time: code i holds bits i * bits to (i + 1) * bits of the row."""
    k = 8 * octets
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=n * k, max_size=n * k))
    q = torch.tensor(codes, dtype=torch.uint8).reshape(n, k)
    p = {"scale": torch.ones(n, 1), "zero": torch.full((n, 1), 2.0 ** (bits - 1))}
    packing = BitPlanes(bits)
    parts = packing.pack(q, p)
    for row, packed in zip(q.tolist(), parts["codes"].tolist(), strict=True):
        whole = sum(code << (bits * i) for i, code in enumerate(row))
        assert bytes(packed) == whole.to_bytes(k * bits // 8, "little")
    assert torch.equal(packing.unpack(parts, (n, k))[0], q)


@given(st.integers(3, 7), st.integers(1, 40))
@few
def test_rows_that_do_not_fill_bytes_are_refused(bits: int, k: int) -> None:
    q, p = torch.zeros(1, k, dtype=torch.uint8), {"scale": torch.ones(1, 1), "zero": torch.ones(1, 1)}
    if k * bits % 8 == 0:
        assert BitPlanes(bits).pack(q, p)["codes"].shape == (1, k * bits // 8)
        return
    try:
        BitPlanes(bits).pack(q, p)
    except ValueError as error:
        assert str(k) in str(error)  # noqa: PT017
    else:
        raise AssertionError("half a byte was lost")
