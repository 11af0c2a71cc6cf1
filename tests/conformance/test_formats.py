"""Every format of the catalog against every law of the house."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quantlab.core import Format, Grid, Packing
from quantlab.errors import UsageError
from quantlab.formats.catalog import FORMATS, get, quantize_tensor
from quantlab.methods.rtn import rtn

K = 256  # a multiple of every group


def _random() -> Tensor:
    return torch.randn(6, K, generator=torch.Generator().manual_seed(3))


def _boundaries() -> Tensor:
    """Weights on the levels of a 4-bit grid of scale 1, halfway between them, and the next float32 to either side."""
    halves = torch.arange(-15, 16) / 2
    above, below = (torch.nextafter(halves, torch.tensor(far)) for far in (9e9, -9e9))
    near = torch.stack([halves, above, below])
    return torch.cat([near.flatten().repeat(6)[: 2 * K].reshape(2, K), _random()[:1]])


def _zeros() -> Tensor:
    W = _random()
    W[0] = 0
    W[1, :128] = 0
    W[2, 128:] = -0.0
    return W


def _outlier() -> Tensor:
    W = _random()
    W[0] *= 1e-3
    W[0, 5] = 50
    return W


WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "random": _random,
    "boundaries": _boundaries,
    "zero groups": _zeros,
    "tiny": lambda: _random() * 1e-30,
    "denormal": lambda: torch.full((2, K), 1e-45),
    "below the smallest float16 scale": lambda: _random() * 1e-9,
    "large": lambda: _random().clamp(-3, 3) * 1e4,
    "all positive": lambda: _random().abs() + 1,
    "all equal": lambda: torch.full((3, K), -0.37),
    "one outlier": _outlier,
    "bfloat16": lambda: _random().bfloat16(),
    "float16": lambda: _random().half(),
    "float64": lambda: _random().double(),
    "one row": lambda: _random()[:1],
}  # fmt: skip

every_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
every_weights = pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)


@every_format
def test_it_is_what_it_says(fmt: Format) -> None:
    assert isinstance(fmt.grid, Grid)
    assert isinstance(fmt.packing, Packing)
    assert get(fmt.name) is fmt
    assert fmt.layout.name == fmt.name
    assert K % fmt.layout.block == 0, "K must divide into this format's groups, or these tests test nothing"
    assert fmt.reference.package
    assert fmt.reference.version


@every_format
@every_weights
def test_unpacking_undoes_packing(fmt: Format, weights: Callable[[], Tensor]) -> None:
    W = weights()
    p = fmt.grid.fit(W)
    q = fmt.grid.encode(W, p)
    q2, p2 = fmt.packing.unpack(fmt.packing.pack(q, p), (W.shape[0], W.shape[1]))
    assert q2.dtype == q.dtype
    assert torch.equal(q, q2)
    assert p.keys() == p2.keys()
    for name in p:
        assert torch.equal(p[name], p2[name]), name


@every_format
def test_every_code_survives_packing(fmt: Format) -> None:
    """Codes drawn at random meet every neighbour, which codes of bell-shaped weights do not."""
    p = fmt.grid.fit(_random())
    top = int(fmt.grid.encode(_random(), p).max()) + 1
    q = torch.randint(0, top, (6, K), dtype=torch.uint8)
    assert torch.equal(fmt.packing.unpack(fmt.packing.pack(q, p), (6, K))[0], q)


@every_format
@every_weights
def test_encoding_what_was_decoded_changes_nothing(fmt: Format, weights: Callable[[], Tensor]) -> None:
    W = weights()
    p = fmt.grid.fit(W)
    q = fmt.grid.encode(W, p)
    W_hat = fmt.grid.decode(q, p)
    assert torch.isfinite(W_hat).all()
    assert torch.equal(fmt.grid.decode(fmt.grid.encode(W_hat, p), p), W_hat)


@every_format
@every_weights
def test_no_level_is_nearer(fmt: Format, weights: Callable[[], Tensor]) -> None:
    """The code below and the code above give no smaller error, but for float32's rounding of the weight itself."""
    W = weights()
    p = fmt.grid.fit(W)
    q = fmt.grid.encode(W, p)
    error = (fmt.grid.decode(q, p).double() - W.double()).abs()
    for step in (-1, 1):
        moved = (q.int() + step).clamp(0, 2**fmt.grid.bits - 1).to(torch.uint8)  # type: ignore[attr-defined]
        other = (fmt.grid.decode(moved, p).double() - W.double()).abs()
        assert (error <= other + W.double().abs() * 2**-22).all()


@every_format
@every_weights
def test_bytes_are_those_of_the_layout(fmt: Format, weights: Callable[[], Tensor]) -> None:
    Q = fmt.quantize(weights())
    n, k = Q.shape
    assert Q.nbytes == fmt.layout.matrix_bytes(n, k)
    assert len(Q.to_bytes()) == Q.nbytes
    assert Q.bits_per_weight == 8 * Q.nbytes / (n * k)


@every_format
def test_zero_groups_stay_zero(fmt: Format) -> None:
    W = _zeros()
    W_hat = fmt.quantize(W).dequantize()
    assert (W_hat[0] == 0).all()
    if fmt.layout.block > 1:
        assert (W_hat[1, :128] == 0).all()
        assert (W_hat[2, 128:] == 0).all()
    assert not torch.isnan(fmt.quantize(torch.zeros(2, K)).dequantize()).any()


@every_format
def test_memory_order_does_not_matter(fmt: Format) -> None:
    W = _random()
    expected = fmt.quantize(W)
    wide = torch.randn(6, 2 * K)
    wide[:, ::2] = W
    for same in (W.t().contiguous().t(), wide[:, ::2]):
        assert not same.is_contiguous()
        assert fmt.quantize(same).to_bytes() == expected.to_bytes()
        assert torch.equal(fmt.quantize(same).dequantize(), expected.dequantize())


@every_format
def test_groups_do_not_see_each_other(fmt: Format) -> None:
    """Changing one group of one row changes no other weight."""
    W = _random()
    changed = W.clone()
    changed[2, :128] *= 7
    before, after = fmt.quantize(W).dequantize(), fmt.quantize(changed).dequantize()
    same = torch.ones_like(W, dtype=torch.bool)
    same[2, : 128 if fmt.layout.block > 1 else K] = False
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[~same], after[~same])


@every_format
def test_the_input_is_left_alone(fmt: Format) -> None:
    W = _random()
    before = W.clone()
    fmt.quantize(W).dequantize()
    assert torch.equal(W, before)


@every_format
def test_it_is_an_ordinary_quantized_tensor(fmt: Format) -> None:
    W = _random()
    W_hat = fmt.quantize(W).dequantize()
    assert W_hat.shape == W.shape
    assert W_hat.dtype == torch.float32
    assert rtn(W, None, fmt).to_bytes() == quantize_tensor(W, fmt.name).to_bytes()
    assert fmt.divides(K)


@every_format
@pytest.mark.parametrize(
    ("W", "words"),
    [
        (torch.zeros(0, K), "non-empty matrix"),
        (torch.zeros(4, 0), "non-empty matrix"),
        (torch.zeros(K), "non-empty matrix"),
        (torch.zeros(2, 2, K), "non-empty matrix"),
        (torch.zeros(2, K, dtype=torch.int32), "floating point"),
        (torch.full((2, K), torch.nan), r"W\[0, 0\] is nan"),
        (torch.ones(2, K).index_put((torch.tensor(1), torch.tensor(7)), torch.tensor(torch.inf)), r"W\[1, 7\] is inf"),
    ],
    ids=["no rows", "no columns", "vector", "cube", "integers", "nan", "infinity"],
)
def test_what_cannot_be_quantized(fmt: Format, W: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fmt.quantize(W)


@every_format
def test_rows_that_do_not_divide(fmt: Format) -> None:
    k = K + 3
    assert fmt.divides(k) == (fmt.layout.block == 1)
    if fmt.divides(k):
        assert fmt.quantize(torch.randn(2, k)).dequantize().shape == (2, k)
        return
    with pytest.raises(ValueError, match=f"rows of {k} weights do not divide into groups of {fmt.layout.block}"):
        fmt.quantize(torch.randn(2, k))


@every_format
def test_scales_beyond_what_is_stored(fmt: Format) -> None:
    """float16 scales end at 65504; a scale that overflowed silently would make the whole group infinite."""
    W = torch.full((2, K), 3e38)
    if fmt.grid.scale_dtype == torch.float32:  # type: ignore[attr-defined]
        assert torch.isfinite(fmt.quantize(W).dequantize()).all()
        return
    with pytest.raises(ValueError, match="beyond a float16 scale"):
        fmt.quantize(W)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'int4_g128'"):
        get("int4-g128")
