"""Every format of the catalog against every law of the house."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quantlab.core import Format, Grid, Packing
from quantlab.errors import UsageError
from quantlab.formats.catalog import FORMATS, get, quantize_tensor
from quantlab.formats.double_quant import expand
from quantlab.methods.rtn import rtn

K = 256  # a multiple of every group
N = 32  # AutoAWQ packs 8 rows into a word, GPTQ its zero points of 3 bits 32 into three


def _random() -> Tensor:
    return torch.randn(N, K, generator=torch.Generator().manual_seed(3))


def _boundaries() -> Tensor:
    """Weights on the levels of a 4-bit grid of scale 1, halfway between them, and the next float32 to either side."""
    halves = torch.arange(-15, 16) / 2
    above, below = (torch.nextafter(halves, torch.tensor(far)) for far in (9e9, -9e9))
    near = torch.stack([halves, above, below])
    return torch.cat([near.flatten().repeat(6)[: 2 * K].reshape(2, K), _random()[2:]])


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
    "denormal": lambda: torch.full((N, K), 1e-45),
    "below the smallest float16 scale": lambda: _random() * 1e-9,
    "large": lambda: _random().clamp(-3, 3) * 1e4,
    "all positive": lambda: _random().abs() + 1,
    "all equal": lambda: torch.full((N, K), -0.37),
    "one outlier": _outlier,
    "bfloat16": lambda: _random().bfloat16(),
    "float16": lambda: _random().half(),
    "float64": lambda: _random().double(),
}  # fmt: skip

every_format = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
LOCAL = {  # formats in which no scale reaches beyond its own block of a row
    name: fmt
    for name, fmt in FORMATS.items()
    if name != "nvfp4" and not name.endswith("_dq") and (not name.startswith("fp8") or name.endswith("channel"))
}
NEAREST = {  # integer formats that take the nearest level: AutoAWQ and GPTQ round by rules of their own
    name: fmt for name, fmt in FORMATS.items() if name.startswith("int")
}
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
    assert p2.keys() <= p.keys(), "what is read back was fitted; what only encode needs is not stored"
    for name in p2:
        assert torch.equal(p[name], p2[name]), name
    assert torch.equal(fmt.grid.decode(q, p), fmt.grid.decode(q2, p2))


@every_format
def test_every_code_survives_packing(fmt: Format) -> None:
    """Codes drawn at random meet every neighbour, which codes of bell-shaped weights do not."""
    p = fmt.grid.fit(_random())
    top = int(fmt.grid.encode(_random(), p).max()) + 1
    q = torch.randint(0, top, (N, K), dtype=torch.uint8)
    assert torch.equal(fmt.packing.unpack(fmt.packing.pack(q, p), (N, K))[0], q)


@every_format
@every_weights
def test_encoding_what_was_decoded_changes_nothing(fmt: Format, weights: Callable[[], Tensor]) -> None:
    W = weights()
    p = fmt.grid.fit(W)
    q = fmt.grid.encode(W, p)
    W_hat = fmt.grid.decode(q, p)
    assert torch.isfinite(W_hat).all()
    if fmt.name in ("nf4_dq", "fp4_dq"):  # codes are chosen for the exact absmax, and decoded with the one in 8 bits
        exact, stored = (scale.repeat_interleave(64).reshape(W.shape) for scale in (p["absmax"], expand(p)))
        again = fmt.grid.encode((W_hat / stored * exact).nan_to_num(0), p)
        assert torch.equal(fmt.grid.decode(again, p), W_hat)
        return
    assert torch.equal(fmt.grid.decode(fmt.grid.encode(W_hat, p), p), W_hat)


@pytest.mark.parametrize("fmt", NEAREST.values(), ids=NEAREST)
@every_weights
def test_no_level_is_nearer(fmt: Format, weights: Callable[[], Tensor]) -> None:
    """The code below and the code above give no smaller error, but for the rounding of the type that is computed in."""
    W = weights()
    p = fmt.grid.fit(W)
    q = fmt.grid.encode(W, p)
    error = (fmt.grid.decode(q, p).double() - W.double()).abs()
    slack = W.double().abs() * 4 * max(torch.finfo(W.dtype).eps, torch.finfo(torch.float32).eps)
    for step in (-1, 1):
        moved = (q.int() + step).clamp(0, 2**fmt.grid.bits - 1).to(torch.uint8)  # type: ignore[attr-defined]
        other = (fmt.grid.decode(moved, p).double() - W.double()).abs()
        assert (error <= other + slack).all()


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
    assert (fmt.quantize(torch.zeros(N, K)).dequantize() == 0).all()


@every_format
def test_memory_order_does_not_matter(fmt: Format) -> None:
    W = _random()
    expected = fmt.quantize(W)
    wide = torch.randn(N, 2 * K)
    wide[:, ::2] = W
    for same in (W.t().contiguous().t(), wide[:, ::2]):
        assert not same.is_contiguous()
        assert fmt.quantize(same).to_bytes() == expected.to_bytes()
        assert torch.equal(fmt.quantize(same).dequantize(), expected.dequantize())


@pytest.mark.parametrize("fmt", LOCAL.values(), ids=LOCAL)
def test_groups_do_not_see_each_other(fmt: Format) -> None:
    """Changing one block of one row changes no other weight."""
    W = _random()
    changed, block = W.clone(), fmt.layout.block if fmt.layout.block > 1 else K
    changed[2, :block] *= 7
    before, after = fmt.quantize(W).dequantize(), fmt.quantize(changed).dequantize()
    same = torch.ones_like(W, dtype=torch.bool)
    same[2, :block] = False
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
    k = K + 4
    assert fmt.divides(k) == (fmt.layout.block == 1 or fmt.layout.flat)
    if fmt.divides(k):
        assert fmt.quantize(torch.randn(N, k)).dequantize().shape == (N, k)
        return
    with pytest.raises(ValueError, match=f"rows of {k} weights do not divide into groups of {fmt.layout.block}"):
        fmt.quantize(torch.randn(N, k))


@every_format
def test_huge_weights_are_stored_or_refused(fmt: Format) -> None:
    """float16 scales end at 65504; a scale that overflowed silently would make the whole group infinite."""
    W = torch.full((N, K), 3e38)
    try:
        W_hat = fmt.quantize(W).dequantize()
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert torch.isfinite(W_hat).all()
    assert not refusal or "rescale" in refusal


def test_an_option_that_a_format_does_not_have() -> None:
    with pytest.raises(ValueError, match="nf4 has no option 'group'; it takes"):
        quantize_tensor(_random(), "nf4", group=64)


@pytest.mark.parametrize("fmt", [f for f in FORMATS.values() if not f.uses_importance], ids=lambda fmt: fmt.name)
def test_importance_where_it_is_of_no_use(fmt: Format) -> None:
    with pytest.raises(ValueError, match=f"{fmt.name} has no use for importance"):
        fmt.quantize(_random(), torch.ones(K))


WEIGHTED = {name: fmt for name, fmt in FORMATS.items() if fmt.uses_importance}


@pytest.mark.parametrize("fmt", WEIGHTED.values(), ids=WEIGHTED)
@pytest.mark.parametrize(
    ("importance", "words"),
    [
        (torch.ones(K - 1), "one value for each of the 256 columns"),
        (torch.full((K,), torch.nan), "finite and not negative"),
        (-torch.ones(K), "finite and not negative"),
    ],
    ids=["of another layer", "nan", "negative"],
)
def test_importance_that_cannot_be(fmt: Format, importance: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fmt.quantize(_random(), importance)


@pytest.mark.parametrize("fmt", WEIGHTED.values(), ids=WEIGHTED)
def test_importance_moves_the_error_away_from_what_matters(fmt: Format) -> None:
    W = _random()
    importance = torch.ones(K)
    importance[::8] = 1000
    plain, weighed = fmt.quantize(W).dequantize(), fmt.quantize(W, importance).dequantize()
    cost = [((W_hat - W) ** 2 * importance).sum() for W_hat in (plain, weighed)]
    assert cost[1] < cost[0]


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'int4_g128'"):
        get("int4-g128")
