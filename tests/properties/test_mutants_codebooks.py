"""Wrong variants of NF4, FP4, FP8, MXFP4 and NVFP4: the checks of tests/reference must tell every one of them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import bitsandbytes_oracle
import compressed_tensors_oracle
import pytest
import torch
from codebook_cases import boundary_blocks, hard_weights, short_blocks
from torch import Tensor

from quantlab.core import Format, Grid, Params, Parts
from quantlab.formats import double_quant, fp8, mx, nf4
from quantlab.formats.catalog import get
from quantlab.formats.codebook import Codebook
from quantlab.formats.minifloat import E2M1, E4M3, MiniFloat

TIES = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])


def _cases(fmt: Format) -> Iterable[Tensor]:
    block, bits16 = min(fmt.layout.block, 64), (torch.bfloat16, torch.float16)
    yield from (W for case, W in hard_weights().items() if case != "huge")
    if fmt.layout.flat:
        midpoints = get(fmt.name).grid.codebook.midpoints  # type: ignore[attr-defined]
        yield from (W for _, W in boundary_blocks(midpoints, block, 1.0))
        yield from (W for _, W in short_blocks(midpoints, block))
        generator = torch.Generator().manual_seed(1)
        yield from (torch.randn(shape, generator=generator) for shape in ((3, 5), (2, 65), (33, 97), (40, 100)))
        return
    if block > 1:
        yield from (W for _, W in boundary_blocks(TIES, block, 6.0))
    for dtype in bits16:
        yield from (W.to(dtype) for W in hard_weights().values() if W.abs().max() < 5e4)


def _is_told_apart(fmt: Format) -> bool:
    """Whether some case differs from the library (or cannot even be computed)."""
    oracle = bitsandbytes_oracle if fmt.layout.flat else compressed_tensors_oracle
    for W in _cases(fmt):
        try:
            if oracle.difference(fmt, W) is not None:
                return True
        except (IndexError, RuntimeError):
            return True
    return False


class UpperLevelWins(Codebook):
    def nearest(self, x: Tensor) -> Tensor:
        return self.order[torch.bucketize(x, self.midpoints, right=True)]


class OneZero(Codebook):
    def nearest(self, x: Tensor) -> Tensor:
        q = super().nearest(x)
        return torch.where(q == 8, 0, q).to(torch.uint8) if self.name == "fp4" else q


class FirstNearest(Codebook):
    def nearest(self, x: Tensor) -> Tensor:
        return (x[..., None] - self.levels).abs().argmin(-1).to(torch.uint8)


class FourDigits(Codebook):
    @property
    def levels(self) -> Tensor:  # type: ignore[override]
        return (torch.tensor(self.table) * 1e4).round() / 1e4


class Divides(nf4.FlatBlocks):
    def encode(self, W: Tensor, p: Params) -> Tensor:
        absmax = p["absmax"].clamp(min=1e-38).repeat_interleave(self.block)[: W.numel()].reshape(W.shape)
        return self.codebook.nearest((W.float() / absmax).clamp(-1, 1))


class Multiplies(nf4.FlatBlocks):
    def encode(self, W: Tensor, p: Params) -> Tensor:
        inverse = (1 / p["absmax"].clamp(min=1e-38)).repeat_interleave(self.block)[: W.numel()].reshape(W.shape)
        return self.codebook.nearest((W.float() * inverse).clamp(-1, 1))


class NoZeroBlock(nf4.FlatBlocks):
    def encode(self, W: Tensor, p: Params) -> Tensor:
        inverse = (1 / p["absmax"]).repeat_interleave(self.block)[: W.numel()].reshape(W.shape)
        return self.codebook.nearest((W.float() * inverse).clamp(-1, 1))


class SignedMaximum(nf4.FlatBlocks):
    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        p = super().fit(W)
        whole, _ = self._blocks(W)
        p["absmax"][: len(whole)] = whole.float().amax(-1).abs()
        return p


class StoredTrueAbsmax(nf4.FlatBlocks):
    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        p = super().fit(W)
        _, rest = self._blocks(W)
        if len(rest):
            p["absmax"][-1] = rest.abs().max().float()
        return p

    def encode(self, W: Tensor, p: Params) -> Tensor:
        return super().encode(W, {"absmax": p["absmax"].clamp(min=1e-38)})


class ChosenForTheStoredScale(nf4.FlatBlocks):
    def encode(self, W: Tensor, p: Params) -> Tensor:
        return super().encode(W, {"absmax": double_quant.expand(p)})


class ExactMidpoints(nf4.FlatBlocks):
    """Double quantization by the 255 midpoints instead of the library's table of points."""

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        p = super().fit(W)
        table = double_quant.dynamic_map()
        rest = double_quant._by_block(p["absmax"] - p["offset"])
        codes = torch.bucketize(rest / p["absmax2"][:, None], (table[1:] + table[:-1]) / 2)
        return {**p, "absmax8": codes.to(torch.uint8).flatten()[: len(p["absmax8"])]}


class NoOffset(nf4.FlatBlocks):
    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        p = super().fit(W)
        return {**p, "offset": p["offset"] * 0}


class LowNibble(nf4.HighNibbleFirst):
    def pack(self, q: Tensor, p: Params) -> Parts:
        parts = super().pack(q, p)
        return {**parts, "weight": parts["weight"] >> 4 | parts["weight"] << 4}


def _codebook(kind: type[Codebook]) -> Callable[[Format], Format]:
    def mutate(fmt: Format) -> Format:
        grid: Any = fmt.grid
        return replace(fmt, grid=replace(grid, codebook=kind(grid.codebook.name, grid.codebook.table)))

    return mutate


def _grid(kind: Callable[..., Grid], *names: str) -> Callable[[Format], Format]:
    return lambda fmt: replace(fmt, grid=kind(**{name: getattr(fmt.grid, name) for name in names}))


_FLAT = ("codebook", "block", "double_quant")
BITSANDBYTES: dict[str, tuple[str, Callable[[Format], Format]]] = {
    "the upper level wins a tie": ("nf4", _codebook(UpperLevelWins)),
    "the upper level wins a tie (fp4)": ("fp4", _codebook(UpperLevelWins)),
    "levels of four digits": ("nf4", _codebook(FourDigits)),
    "one zero": ("fp4", _codebook(OneZero)),
    "the first of the nearest": ("fp4", _codebook(FirstNearest)),
    "divides": ("nf4", _grid(Divides, *_FLAT)),
    "multiplies a short block": ("nf4", _grid(Multiplies, *_FLAT)),
    "no case for zero blocks": ("nf4", _grid(NoZeroBlock, *_FLAT)),
    "signed maximum": ("nf4", _grid(SignedMaximum, *_FLAT)),
    "a short zero block keeps 0": ("nf4", _grid(StoredTrueAbsmax, *_FLAT)),
    "codes for the 8-bit scale": ("nf4_dq", _grid(ChosenForTheStoredScale, *_FLAT)),
    "exact midpoints": ("nf4_dq", _grid(ExactMidpoints, *_FLAT)),
    "no offset": ("nf4_dq", _grid(NoOffset, *_FLAT)),
    "low nibble first": ("nf4", lambda fmt: replace(fmt, packing=LowNibble(7))),
    "low nibble first (fp4)": ("fp4", lambda fmt: replace(fmt, packing=LowNibble(0))),
}


@dataclass(frozen=True)
class Rounds(MiniFloat):
    """Another rounding of the step count."""

    how: Callable[[Tensor], Tensor] = torch.floor

    def encode(self, x: Tensor) -> Tensor:
        size = x.abs().float().clamp(max=self.largest)
        e = torch.frexp(size.clamp(min=2.0**self.first)).exponent - 1
        code = (e - self.first) * 2**self.mantissa + self.how(torch.ldexp(size, self.mantissa - e))
        return code.to(torch.uint8) | (torch.signbit(x).to(torch.uint8) << (self.bits - 1))


def _small(number: MiniFloat, how: Callable[[Tensor], Tensor]) -> MiniFloat:
    return Rounds(number.name, number.exponent, number.mantissa, number.finite, number.infinity, how)


def _half_up(x: Tensor) -> Tensor:
    return (x + 0.5).floor()


def _half_down(x: Tensor) -> Tensor:
    return (x - 0.5).ceil()


class KeepsNegativeZero(fp8.ScaledFloats):
    def encode(self, W: Tensor, p: Params) -> Tensor:
        q = super().encode(W, p)
        return torch.where((W == 0) & torch.signbit(W), 128, q).to(torch.uint8)


class RoundsOnce(fp8.ScaledFloats):
    def encode(self, W: Tensor, p: Params) -> Tensor:
        return super().encode(W.float(), p)


class ZeroScale(fp8.ScaledFloats):
    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        p = super().fit(W)
        return {"scale": torch.where(self._largest(W) == 0, 1.0, p["scale"])}


class ForIeee(fp8.ScaledFloats):
    """E4M3 as IEEE would have it ends at 240."""

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        return {"scale": super().fit(W)["scale"] * (448 / 240)}


_SCALED = ("number", "granularity", "scale_dtype")


def _number(how: Callable[[Tensor], Tensor]) -> Callable[[Format], Format]:
    return lambda fmt: replace(fmt, grid=replace(fmt.grid, number=_small(E4M3, how)))  # type: ignore[type-var]


class DividesTwice(mx.TwoLevelBlocks):
    def encode(self, W: Tensor, p: Params) -> Tensor:
        return mx._encode(W.float() * p["global_scale"], p["scale"], self.group)


class NoSmallestScale(mx.TwoLevelBlocks):
    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        p = super().fit(W)
        return {**p, "scale": torch.where(p["scale"] == 0.125, 2.0**-9, p["scale"])}


class Float32Parameters(mx.TwoLevelBlocks):
    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        return super().fit(W.float())


class ScaleOfOne(mx.PowerOfTwoBlocks):
    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        p = super().fit(W)
        return {"scale": torch.where(p["scale"] == 2.0**-127, 1.0, p["scale"])}


class SubnormalsCount(mx.PowerOfTwoBlocks):
    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        return super().fit(W.float())


class HighNibble(mx.LowNibbleFirst):
    def pack(self, q: Tensor, p: Params) -> Parts:
        parts = super().pack(q, p)
        return {**parts, "weight_packed": parts["weight_packed"] >> 4 | parts["weight_packed"] << 4}


class WrongBias(mx.LowNibbleFirst):
    def pack(self, q: Tensor, p: Params) -> Parts:
        parts = super().pack(q, p)
        return {**parts, "weight_scale": parts["weight_scale"] + 1}


COMPRESSED_TENSORS: dict[str, tuple[str, Callable[[Format], Format]]] = {
    "cuts off": ("fp8_e4m3", _number(torch.floor)),
    "half up": ("fp8_e4m3_channel", _number(_half_up)),
    "half down": ("fp8_e4m3_channel", _number(_half_down)),
    "keeps -0": ("fp8_e4m3", _grid(KeepsNegativeZero, *_SCALED)),
    "rounds once": ("fp8_e4m3", _grid(RoundsOnce, *_SCALED)),
    "zeros have the scale 1": ("fp8_e4m3_channel", _grid(ZeroScale, *_SCALED)),
    "ends at 240": ("fp8_e4m3_block128", _grid(ForIeee, *_SCALED)),
    "the standard's scale": ("mxfp4", lambda fmt: get("mxfp4", rule="floor")),
    "zeros have the scale 1 (mx)": ("mxfp4", _grid(ScaleOfOne, "rule")),
    "scales below float16": ("mxfp4", _grid(SubnormalsCount, "rule")),
    "high nibble first (mx)": ("mxfp4", lambda fmt: replace(fmt, packing=HighNibble(False))),
    "bias 126": ("mxfp4", lambda fmt: replace(fmt, packing=WrongBias(False))),
    "scales twice": ("nvfp4", _grid(DividesTwice, "absmax")),
    "no smallest scale": ("nvfp4", _grid(NoSmallestScale, "absmax")),
    "parameters in float32": ("nvfp4", _grid(Float32Parameters, "absmax")),
    "high nibble first": ("nvfp4", lambda fmt: replace(fmt, packing=HighNibble(True))),
}


@pytest.mark.parametrize("name", ["nf4", "fp4", "nf4_dq", "fp8_e4m3", "fp8_e4m3_channel", "mxfp4", "nvfp4"])
def test_the_real_ones_pass_the_same_check(name: str) -> None:
    assert not _is_told_apart(get(name))


@pytest.mark.parametrize(("name", "mutate"), BITSANDBYTES.values(), ids=BITSANDBYTES)
def test_bitsandbytes_mutants_are_told_apart(name: str, mutate: Callable[[Format], Format]) -> None:
    assert _is_told_apart(mutate(get(name)))


@pytest.mark.parametrize(("name", "mutate"), COMPRESSED_TENSORS.values(), ids=COMPRESSED_TENSORS)
def test_compressed_tensors_mutants_are_told_apart(name: str, mutate: Callable[[Format], Format]) -> None:
    assert _is_told_apart(mutate(get(name)))


@pytest.mark.parametrize("how", [torch.floor, _half_up, _half_down], ids=["cuts off", "half up", "half down"])
@pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])
def test_other_roundings_of_e2m1(name: str, how: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant: Any = _small(E2M1, how)
    monkeypatch.setattr(mx, "E2M1", mutant)
    assert _is_told_apart(get(name))
