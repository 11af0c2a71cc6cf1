"""Laws of the integer grid on weights that nobody thought of, for each library's rounding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantlab.core import Params
from quantlab.errors import UsageError
from quantlab.formats.int_affine import IntAffine
from quantlab.formats.int_rounding import ROUNDINGS, rounding, smallest_scale

few = settings(max_examples=60, deadline=None)
AWQ, CT, GPTQ = rounding("autoawq"), rounding("compressed-tensors"), rounding("gptq")


@st.composite
def matrices(draw: st.DrawFn, group: int = 8) -> Tensor:
    """[n, k] of finite float32 within float16's ranges, of very different sizes."""
    n, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    number = st.floats(-3e4, 3e4, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-30, 1.0, 0.5, 2.0**-24])
    values = draw(st.lists(number, min_size=n * groups * group, max_size=n * groups * group))
    return torch.tensor(values, dtype=torch.float32).reshape(n, -1)


@st.composite
def grids(draw: st.DrawFn, rules: tuple[str, ...] = tuple(ROUNDINGS)) -> IntAffine:
    rule = rounding(draw(st.sampled_from(rules)))
    stored = torch.float16 if rule is AWQ else draw(st.sampled_from([torch.float16, torch.float32, torch.bfloat16]))
    group = draw(st.sampled_from([8, 4, None]))
    per_tensor = group is None and draw(st.booleans())
    return IntAffine(draw(st.integers(2, 8)), group, draw(st.booleans()), stored, rule, per_tensor)


def columns(p: Params, k: int) -> Params:
    """Scale and zero [n, k] of every column."""
    return {name: part.repeat_interleave(k // part.shape[1], 1) for name, part in p.items()}


@given(matrices(), grids(("compressed-tensors",)))
@few
def test_error_is_at_most_half_a_step_and_the_rounding_of_the_scale(W: Tensor, grid: IntAffine) -> None:
    p = grid.fit(W)
    W_hat = grid.decode(grid.encode(W, p), p)
    step = columns(p, W.shape[1])["scale"]
    steps = 2**grid.bits - 1
    # a stored scale is off by half its last bit; at the far end that adds up `steps` times
    slack = steps * (step * torch.finfo(grid.scale_dtype).eps / 2 + smallest_scale(grid.scale_dtype) / 2)
    moved = 0.5 * step if not grid.symmetric else 0  # a zero point is rounded to a whole number as well
    assert ((W_hat - W).abs() <= 0.5 * step * (1 + 1e-5) + slack + moved).all()


@given(matrices(), grids())
@few
def test_decoded_weights_are_fixed_points_and_zero_is_a_level(W: Tensor, grid: IntAffine) -> None:
    p = grid.fit(W)
    W_hat = grid.decode(grid.encode(W, p), p)
    assert torch.equal(grid.decode(grid.encode(W_hat, p), p), W_hat)
    assert (grid.decode(grid.encode(torch.zeros_like(W), p), p) == 0).all()


@given(matrices(), grids())
@few
def test_parameters_can_be_stored(W: Tensor, grid: IntAffine) -> None:
    p = grid.fit(W)
    assert torch.equal(p["scale"], p["scale"].to(grid.scale_dtype).float())
    assert (p["scale"] > 0).all()
    assert torch.isfinite(p["scale"]).all()
    assert torch.equal(p["zero"], p["zero"].round().clamp(0, 2**grid.bits - 1))
    if grid.symmetric:
        assert (p["zero"] == 2 ** (grid.bits - 1)).all()


@given(matrices(), grids(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
@few
def test_columns_one_at_a_time_are_the_matrix(W: Tensor, grid: IntAffine, dtype: torch.dtype) -> None:
    """GPTQ's loop over columns: `snap` and `value` are `encode` and `decode`, to the last bit."""
    W = W.to(dtype)
    p = grid.fit(W)
    q, each = grid.encode(W, p), columns(p, W.shape[1])
    W_hat = grid.decode(q, p)
    for j in range(W.shape[1]):
        scale, zero = each["scale"][:, j], each["zero"][:, j]
        codes = grid.snap(W[:, j], scale, zero)
        assert torch.equal(codes.to(torch.uint8), q[:, j])
        assert torch.equal(grid.value(codes, scale, zero), W_hat[:, j])


@given(matrices(), grids())
@few
def test_columns_may_lie_in_any_group(W: Tensor, grid: IntAffine) -> None:
    """With "g_idx" (act order) shuffled columns give shuffled codes and weights."""
    k = W.shape[1]
    p = grid.fit(W)
    q = grid.encode(W, p)
    order = torch.randperm(k)
    moved = {**p, "g_idx": (torch.arange(k) // (k // p["scale"].shape[1]))[order].to(torch.int32)}
    assert torch.equal(grid.encode(W[:, order], moved), q[:, order])
    assert torch.equal(grid.decode(q[:, order], moved), grid.decode(q, p)[:, order])


@given(matrices(), grids(("compressed-tensors", "gptq")), st.integers(-8, 8))
@few
def test_powers_of_two_pass_through(W: Tensor, grid: IntAffine, exponent: int) -> None:
    """Scaling weights by 2^e scales W_hat by 2^e and leaves the codes, wherever the scale stays a normal number."""
    p, factor = grid.fit(W), math.ldexp(1.0, exponent)
    normal = torch.finfo(grid.scale_dtype).smallest_normal * 2**9
    groups = W.reshape(len(W), p["scale"].shape[1], -1) if not grid.per_tensor else W.reshape(1, 1, -1)
    lost = (W * factor / factor != W).any() or (groups == 0).all(-1).any()  # groups of zeros have a scale of their own
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


@given(matrices(), st.integers(2, 8), st.booleans())
@few
def test_one_scale_for_the_tensor_is_that_of_all_its_weights_in_a_row(W: Tensor, bits: int, symmetric: bool) -> None:
    whole = IntAffine(bits, None, symmetric, torch.float32, per_tensor=True)
    row = IntAffine(bits, None, symmetric, torch.float32)
    p, flat = whole.fit(W), row.fit(W.reshape(1, -1))
    assert (p["scale"] == flat["scale"]).all()
    assert torch.equal(whole.encode(W, p).flatten(), row.encode(W.reshape(1, -1), flat).flatten())


@pytest.mark.parametrize("rule", ROUNDINGS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 1}, "bits must be from 2 to 8, got 1"),
        ({"bits": 9}, "bits must be from 2 to 8, got 9"),
        ({"group": 0}, "group must be at least 1, got 0"),
        ({"group": 4, "per_tensor": True}, "choose group=None"),
    ],
)
def test_grids_that_cannot_be(rule: str, change: dict[str, int], words: str) -> None:
    settings = {"bits": 4, "group": None, **change}
    with pytest.raises(ValueError, match=words):
        IntAffine(**settings, rounding=rounding(rule))  # type: ignore[arg-type]


def test_rows_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="rows of 100 weights do not divide into groups of 64; choose a divisor of k"):
        IntAffine(4, 64).fit(torch.ones(2, 100))


@pytest.mark.parametrize("rule", ROUNDINGS)
def test_scales_that_float16_cannot_hold(rule: str) -> None:
    W = torch.full((2, 8), 3e38)
    W[0, 0] = -3e38
    with pytest.raises(
        ValueError, match=r"a group has scale (inf|nan|\d.*e\+37), beyond a float16 scale; rescale the weights"
    ):
        IntAffine(4, 8, False, rounding=rounding(rule)).fit(W)


def test_an_unknown_rounding_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'autoawq'"):
        rounding("awq")


def test_the_three_libraries_differ_where_the_table_says() -> None:
    """One group, three scales, three codes for a weight between two levels."""
    W = torch.tensor([[-7.5, 7.5, 0.25, 0.75, 1.5, -2.5, 3.5, 0.0]])
    scales = [IntAffine(4, None, True, torch.float32, rule).fit(W)["scale"].item() for rule in (CT, AWQ, GPTQ)]
    assert scales == pytest.approx([1.0, 7.5 / 7, 1.0], rel=1e-3)
    assert CT.empty(torch.float16) == 2.0**-10
    tie, one, odd = torch.tensor([1.5]), torch.tensor([1.0]), torch.tensor([3.0])
    codes = [IntAffine(4, None, False, torch.float32, rule).snap(tie, one, odd).item() for rule in (CT, AWQ, GPTQ)]
    assert codes == [4, 5, 5]  # 4.5 goes to the even 4; 1.5 goes to the even 2, and 3 are added
