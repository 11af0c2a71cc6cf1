"""Laws of the K-quants on weights and bytes that nobody thought of."""

from __future__ import annotations

import pytest
import torch
from golden.kquant_cases import CASES, TYPES, bell
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quantlab.formats import gguf_k_super
from quantlab.formats.catalog import FORMATS, quantize_tensor
from quantlab.formats.gguf_k_bytes import join, join_six, split, split_six
from quantlab.formats.gguf_search_min import Stretch, fit_line, nearest_int
from quantlab.formats.gguf_search_turns import fit_symmetric, share_scale

every_type = pytest.mark.parametrize("name", TYPES)
few = settings(max_examples=15, deadline=None)


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    """[n, 256 or 512] of finite float32 that a K-quant can store: bell-shaped, with numbers of all sizes put in."""
    n, k = draw(st.integers(1, 3)), draw(st.sampled_from([256, 512]))
    W = torch.randn(n, k, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**32))))
    number = st.floats(-1e5, 1e5, width=32) | st.sampled_from([0.0, -0.0, 1e-45, -1e-30, 0.5, 2.0**-24, -1000.0])
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, k - 1))
        W[draw(st.integers(0, n - 1)), start : start + draw(st.sampled_from([1, 7, 16, 64]))] = draw(number)
    return W * 10.0 ** draw(st.integers(-9, 0))


@st.composite
def importances(draw: st.DrawFn, k: int) -> Tensor:
    """[k] of importances that are not negative, some of them zero."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 1.0, 5.0]))
    return torch.randn(k, generator=generator).mul(spread).exp() * (torch.rand(k, generator=generator) < 0.9)


@every_type
@given(data=st.data())
@few
def test_what_is_stored_is_what_was_fitted(name: str, data: st.DataObject) -> None:
    W, fmt = data.draw(matrices()), FORMATS[name]
    importance = data.draw(st.none() | importances(W.shape[1]))
    p = fmt.grid.fit(W, importance)
    q = fmt.grid.encode(W, p)
    q2, p2 = fmt.packing.unpack(fmt.packing.pack(q, p), (W.shape[0], W.shape[1]))
    assert torch.equal(q, q2)
    assert p.keys() == {*p2, "searched"}
    for key, value in p2.items():
        assert value.dtype == p[key].dtype
        assert torch.equal(value, p[key]), key


@every_type
@given(seed=st.integers(0, 2**32))
@few
def test_every_byte_has_a_meaning(name: str, seed: int) -> None:
    """Packing undoes unpacking: no bit of a block is lost, whatever the bytes."""
    fmt = FORMATS[name]
    generator = torch.Generator().manual_seed(seed)
    shape = (2, int(fmt.layout.nbytes))
    blocks = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    q, p = fmt.packing.unpack({"blocks": blocks}, (2, 256))
    if all(torch.isfinite(p[key]).all() for key in ("d", "dmin") if key in p):
        assert torch.equal(fmt.packing.pack(q, p)["blocks"], blocks)
    assert q.dtype == torch.uint8
    assert int(q.max()) < 2**fmt.grid.bits  # type: ignore[attr-defined]


@every_type
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_super_blocks_do_not_see_each_other(name: str, data: st.DataObject) -> None:
    """Each row alone gives the bytes it gives among others: also where one of them needs C's overrunning rounding."""
    W = torch.cat([data.draw(matrices())[:, :256], CASES["almost equal"]()[::2], CASES["denormal"]()[1:]])
    importance = data.draw(st.none() | importances(256))
    together = quantize_tensor(W, name, importance=importance).parts["blocks"]
    for row, blocks in zip(W.split(1), together, strict=True):
        assert torch.equal(quantize_tensor(row, name, importance=importance).parts["blocks"][0], blocks)


@every_type
def test_parts_end_to_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    W = bell(7, 3)
    whole = quantize_tensor(W, name).to_bytes()
    monkeypatch.setattr(gguf_k_super, "_AT_ONCE", 3)
    assert quantize_tensor(W, name).to_bytes() == whole


@every_type
@given(seed=st.integers(0, 2**32), exponent=st.integers(-3, 6))
@few
def test_powers_of_two_pass_through(name: str, seed: int, exponent: int) -> None:
    """Scaling weights by 2^e scales W_hat by 2^e, wherever d and dmin stay normal float16 numbers."""
    W = torch.randn(1, 256, generator=torch.Generator().manual_seed(seed))
    once, scaled = quantize_tensor(W, name), quantize_tensor(W * 2.0**exponent, name)
    d = once.fmt.packing.unpack(once.parts, (1, 256))[1]["d"].abs()
    if (d * min(1.0, 2.0**exponent) >= 2.0**-14).all():
        assert torch.equal(scaled.dequantize(), once.dequantize() * 2.0**exponent)


@given(matrices())
@few
def test_signs_pass_through_q6_k(W: Tensor) -> None:
    assert torch.equal(quantize_tensor(-W, "q6_k").dequantize(), -quantize_tensor(W, "q6_k").dequantize())


def test_signs_do_not_pass_through_q3_k() -> None:
    """Turns are taken only where the largest weight of a block is negative: there the error is smaller."""
    W = bell(60, 1).reshape(-1, 16)
    W *= -W.gather(1, W.abs().argmax(1, keepdim=True)).sign()
    errors = []
    for x in (W.t(), -W.t()):
        scale, codes = fit_symmetric(x.contiguous(), 4)
        errors.append(float((x**2 * (scale * (codes.float() - 4) - x) ** 2).sum()))
    assert errors[0] < 0.97 * errors[1]


@every_type
def test_importance_moves_the_error_to_where_it_is_cheap(name: str) -> None:
    W, importance = bell(8, 1), bell(1, 2)[0].mul(2).exp()
    plain, weighted = (quantize_tensor(W, name, importance=chosen).dequantize() for chosen in (None, importance))
    assert ((weighted - W).square() * importance).sum() < 0.95 * ((plain - W).square() * importance).sum()


def test_more_bits_less_error() -> None:
    W = bell(8, 1)
    errors = [float((quantize_tensor(W, name).dequantize() - W).square().mean()) for name in TYPES]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 50 * errors[-1]


@every_type
def test_a_sub_block_whose_scale_is_lost_keeps_the_codes_of_the_search(name: str) -> None:
    """What `fit` hands to `encode` beside the stored numbers; without it (unpacked parameters) those codes are 0."""
    W, fmt = CASES["uneven"](), FORMATS[name]
    p = fmt.grid.fit(W)
    times = p["scale"].shape[1]
    lost = (p["d"].repeat_interleave(times, 1) * p["scale"] == 0).repeat_interleave(256 // times, 1)
    assert lost.any()
    q = fmt.grid.encode(W, p)
    assert torch.equal(q[lost], p["searched"][lost])
    bare = fmt.grid.encode(W, {key: value for key, value in p.items() if key != "searched"})
    assert torch.equal(bare[~lost], q[~lost])
    assert (bare[lost] == 0).all()
    assert torch.equal(fmt.grid.decode(bare, p), fmt.grid.decode(q, p))


@given(st.sampled_from([1, 2, 4]), st.integers(0, 2**32))
@few
def test_join_and_split(bits: int, seed: int) -> None:
    octets = torch.randint(0, 256, (3, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    pieces = split(octets, bits, 8 // bits)
    assert int(pieces.max()) < 2**bits
    assert torch.equal(join(pieces, bits), octets)
    assert torch.equal(join_six(*split_six(octets[:, :12])), octets[:, :12])


def test_rounding_is_to_even_up_to_where_c_runs_over() -> None:
    halves = torch.arange(-9, 10) / 2
    assert torch.equal(nearest_int(halves).float(), halves.round())
    top = torch.tensor([4194303.0, -4194304.0, 4194304.0, 1e30, -torch.inf])
    assert nearest_int(top).tolist() == [4194303, -4194304, -4194304, nearest_int(top[3:4]).item(), -4194304]


def test_a_line_is_found_where_there_is_one() -> None:
    q = torch.tensor([0, 15, 3, 7, 1, 12, 14, 2]).float()
    x = (0.25 * q - 2)[:, None]
    scale, low, codes = fit_line(x, torch.ones_like(x), Stretch(15, first=-1.0, step=0.1, count=21))
    assert (scale.item(), low.item()) == (0.25, -2.0)
    assert torch.equal(codes[:, 0].float(), q)


def test_units_are_found_where_there_are_some() -> None:
    q = torch.tensor([1, 15, 3, 7])[:, None]
    unit, codes = share_scale(q * 0.5, torch.ones(4, 1), 15)
    assert unit.item() == 0.5
    assert torch.equal(codes.int(), q.int())
    scale, codes = fit_symmetric(torch.tensor([[-4.0], [3], [1], [0]]), 4)
    assert scale.item() == 1
    assert codes.flatten().tolist() == [0, 7, 5, 4]


@every_type
@pytest.mark.parametrize("k", [32, 255, 576])
def test_rows_that_do_not_divide(name: str, k: int) -> None:
    with pytest.raises(ValueError, match=f"rows of {k} weights do not divide into groups of 256"):
        quantize_tensor(torch.ones(2, k), name)


@every_type
def test_importance_that_belongs_elsewhere(name: str) -> None:
    for importance, words in (
        (torch.ones(255), "one value for each of the 256 columns"),
        (-torch.ones(256), "finite and not negative"),
        (torch.full((256,), torch.nan), "finite and not negative"),
    ):
        with pytest.raises(ValueError, match=words):
            quantize_tensor(torch.ones(2, 256), name, importance=importance)
