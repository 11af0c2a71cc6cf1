"""Wrong integer formats, each wrong in one way that was once written or could be: the checks must tell them apart.

A mutant that passes means that a check proves less than it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from golden.gptq_cases import CASES, weights
from int_references import args_of, same_as_autoawq, same_as_compressed_tensors, same_as_gptqmodel
from int_weights import adversarial
from torch import Tensor

from quantlab.core import Format, Packing, Params, Parts
from quantlab.formats.awq_pack import AwqGemm
from quantlab.formats.catalog import get
from quantlab.formats.gptq_pack import GptqWords
from quantlab.formats.int_affine import IntAffine
from quantlab.formats.int_rounding import AutoAWQ, CompressedTensors, Gptq, Rounding
from quantlab.formats.pack_quantized import IntQuantized, PackQuantized
from quantlab.formats.words import pack_words


def rounded_down(q: Tensor) -> Tensor:
    return q.floor()


def half_up(q: Tensor) -> Tensor:
    return (q + 0.5).floor()


def half_away(q: Tensor) -> Tensor:
    return q.sign() * (q.abs() + 0.5).floor()


# --- rounding: what fit and snap of a library must not be


class TruncatesCompressed(CompressedTensors):
    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        return rounded_down(w / scale + zero)


class TiesUpCompressed(CompressedTensors):
    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        return half_up(w / scale + zero)


class TiesAwayCompressed(CompressedTensors):
    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        return half_away(w / scale + (zero - 2 ** (bits - 1))) + 2 ** (bits - 1)


class AddsZeroLastCompressed(CompressedTensors):
    """As GPTQ and AutoAWQ do: another tie wherever z is odd."""

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        return (w / scale).round() + zero


class MultipliesCompressed(CompressedTensors):
    """w * (1/s) is not w / s."""

    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        return super().snap(w * (1 / scale), torch.ones_like(scale), zero, bits)


class WholeStepCompressed(CompressedTensors):
    """max|w| / 7, the symmetric grid of AutoAWQ."""

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        return AutoAWQ(dtype=None).fit(groups, bits, symmetric)


class TinyInsteadOfEpsilon(CompressedTensors):
    """A zero group's scale: the value does not care, the bytes do."""

    def empty(self, scale_dtype: torch.dtype) -> float:
        return 2.0**-24


class ZeroOutsideCompressed(CompressedTensors):
    """The range is not widened to hold 0."""

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        low, high = groups.amin(-1), groups.amax(-1)
        scale = (high - low) / (2**bits - 1)
        return scale, (-low / scale).round().nan_to_num(0).clamp(0, 2**bits - 1)


class NoFloorAwq(AutoAWQ):
    """Without the least range of 1e-5."""

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        low, high = groups.amin(-1), groups.amax(-1)
        scale = (high - low) / (2**bits - 1)
        return scale, (-(low / scale).round()).nan_to_num(0).clamp(0, 2**bits - 1)


class WidenedAwq(AutoAWQ):
    """The range widened to hold 0, as everybody else does, and as AutoAWQ should."""

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        with_zero = torch.cat([groups, torch.zeros_like(groups[..., :1])], -1)
        return super().fit(with_zero, bits, symmetric)


class ZeroBeforeRoundingAwq(AutoAWQ):
    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        return (w / scale + zero).round()


class TiesAwayGptq(Gptq):
    def snap(self, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
        return half_away(w / scale) + zero


class AlwaysMirroredGptq(Gptq):
    """Symmetric ranges mirrored without a negative weight too: what was meant."""

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        both = torch.cat([groups, -groups], -1) if symmetric else groups
        return super().fit(both, bits, symmetric)


class EmptyGptq(Gptq):
    """A group of zeros with the scale 1, not 2 / 15."""

    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        scale, zero = super().fit(groups, bits, symmetric)
        return scale.masked_fill((groups == 0).all(-1), 1), zero


class FlooredZeroGptq(Gptq):
    def fit(self, groups: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        scale, zero = super().fit(groups, bits, symmetric)
        low = groups.amin(-1).clamp(max=0)
        return scale, zero if symmetric else (-low / scale).floor().clamp(0, 2**bits - 1).nan_to_num(0)


# --- packing: what the bytes must not be


@dataclass(frozen=True)
class Spoiled:
    """A packing whose pack goes wrong in one part."""

    right: Packing
    spoil: Callable[[Parts, Tensor, Params], Parts]

    def pack(self, q: Tensor, p: Params) -> Parts:
        return self.spoil(self.right.pack(q, p), q, p)

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        return self.right.unpack(parts, shape)


def awq_order(*order: int) -> Callable[[Parts, Tensor, Params], Parts]:
    return lambda parts, q, p: {**parts, "qweight": pack_words(q.T.contiguous(), 4, order)}


def awq_zeros_in_order(parts: Parts, q: Tensor, p: Params) -> Parts:
    return {**parts, "qzeros": pack_words(p["zero"].T.to(torch.uint8).contiguous(), 4)}


def zeros_minus_one(parts: Parts, q: Tensor, p: Params) -> Parts:
    return {**parts, "qzeros": parts["qzeros"] - 0x11111111}


def high_first(name: str, bits: int) -> Callable[[Parts, Tensor, Params], Parts]:
    """The first code in the highest bits."""
    return lambda parts, q, p: {**parts, name: pack_words(q.unflatten(1, (-1, 8)).flip(-1).flatten(1), bits)}


def words_high_first(name: str) -> Callable[[Parts, Tensor, Params], Parts]:
    """Words with their highest byte first."""

    def spoil(parts: Parts, q: Tensor, p: Params) -> Parts:
        octets = parts[name].view(torch.uint8).unflatten(1, (-1, 4))
        return {**parts, name: octets.flip(-1).flatten(1).view(torch.int32)}

    return spoil


def not_transposed(name: str) -> Callable[[Parts, Tensor, Params], Parts]:
    return lambda parts, q, p: {**parts, name: parts[name].T.reshape(parts[name].shape)}


def zeros_along_k(parts: Parts, q: Tensor, p: Params) -> Parts:
    return {**parts, "weight_zero_point": pack_words(p["zero"].to(torch.uint8), 4)}


def two_shapes(parts: Parts, q: Tensor, p: Params) -> Parts:
    return {**parts, "weight_shape": parts["weight_shape"].flip(0)}


def not_from_the_middle(parts: Parts, q: Tensor, p: Params) -> Parts:
    return {**parts, "weight": q.view(torch.int8)}


def words_of_ten(parts: Parts, q: Tensor, p: Params) -> Parts:
    """3-bit codes ten to a word, as compressed-tensors once stored them."""
    q = torch.nn.functional.pad(q, (0, -q.shape[1] % 10)).unflatten(1, (-1, 10)).to(torch.int64)
    return {**parts, "weight_packed": (q << (3 * torch.arange(10))).sum(-1).to(torch.int32)}


def in_groups_of_one_size_more(parts: Parts, q: Tensor, p: Params) -> Parts:
    return {**parts, "g_idx": torch.arange(q.shape[1], dtype=torch.int32)}


# --- the checks


def passes(check: Callable[[], object]) -> bool:
    """Whether a check holds on all of its inputs."""
    try:
        check()
    except AssertionError:
        return False
    return True


def awq_check(rounding: Rounding | None = None, packing: Packing | None = None) -> None:
    fmt = get("awq_int4_g64")
    assert isinstance(fmt.grid, IntAffine)
    fmt = replace(fmt, grid=replace(fmt.grid, rounding=rounding or fmt.grid.rounding), packing=packing or fmt.packing)
    for W in adversarial().values():
        same_as_autoawq(W / 2, fmt, 64)


def compressed_check(
    rounding: Rounding | None = None, packing: Packing | None = None, bits: int = 4, symmetric: bool = False
) -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        fmt: Format = get("int4_g32", bits=bits, symmetric=symmetric, scale_dtype=dtype)
        assert isinstance(fmt.grid, IntAffine)
        fmt = replace(fmt, grid=replace(fmt.grid, rounding=rounding or fmt.grid.rounding))
        if packing is not None:
            assert isinstance(packing, Spoiled)
            fmt = replace(fmt, packing=Spoiled(fmt.packing, packing.spoil))
        for W in adversarial().values():
            same_as_compressed_tensors(W.to(getattr(torch, dtype)), fmt, args_of(bits, 32, symmetric))


def int8_check(spoil: Callable[[Parts, Tensor, Params], Parts] | None = None) -> None:
    fmt = get("int8")
    if spoil:
        fmt = replace(fmt, packing=Spoiled(IntQuantized(), spoil))
    same_as_compressed_tensors(adversarial()["random"], fmt, args_of(8, None, True), "int-quantized")


def gptq_check(
    rounding: Rounding | None = None, spoil: Callable[[Parts, Tensor, Params], Parts] | None = None, shift: int = 0
) -> None:
    for case in CASES:
        if shift and case.bits != 4:
            continue
        right = GptqWords(case.bits, case.group, 1 + (case.version - 1 + shift) % 2, case.desc_act)
        packing: Packing = Spoiled(right, spoil) if spoil else right
        grid = IntAffine(case.bits, case.group, case.symmetric, torch.float32, rounding or Gptq())
        for name, W in weights(case.bits).items():
            same_as_gptqmodel(case, name, W, grid, packing)


def compressed(spoil: Callable[[Parts, Tensor, Params], Parts]) -> Spoiled:
    return Spoiled(PackQuantized(4), spoil)


def awq(spoil: Callable[[Parts, Tensor, Params], Parts]) -> Spoiled:
    return Spoiled(AwqGemm(), spoil)


MUTANTS: dict[str, Callable[[], object]] = {
    "compressed-tensors: codes cut off": lambda: compressed_check(TruncatesCompressed()),
    "compressed-tensors: ties up": lambda: compressed_check(TiesUpCompressed()),
    "compressed-tensors: ties away from 0": lambda: compressed_check(TiesAwayCompressed(), symmetric=True),
    "compressed-tensors: zero added last": lambda: compressed_check(AddsZeroLastCompressed()),
    "compressed-tensors: times the inverse": lambda: compressed_check(MultipliesCompressed(), symmetric=True),
    "compressed-tensors: whole steps": lambda: compressed_check(WholeStepCompressed(), symmetric=True),
    "compressed-tensors: zero groups": lambda: compressed_check(TinyInsteadOfEpsilon(), symmetric=True),
    "compressed-tensors: range without 0": lambda: compressed_check(ZeroOutsideCompressed()),
    "compressed-tensors: arithmetic in float32": lambda: compressed_check(CompressedTensors(dtype=torch.float32)),
    "compressed-tensors: first code high": lambda: compressed_check(packing=compressed(high_first("weight_packed", 4))),
    "compressed-tensors: bytes high": lambda: compressed_check(packing=compressed(words_high_first("weight_packed"))),
    "compressed-tensors: zero points along k": lambda: compressed_check(packing=compressed(zeros_along_k)),
    "compressed-tensors: shape [k, n]": lambda: compressed_check(packing=compressed(two_shapes)),
    "compressed-tensors: ten codes a word": lambda: compressed_check(packing=compressed(words_of_ten), bits=3),
    "int8: not from the middle": lambda: int8_check(not_from_the_middle),
    "AutoAWQ: no least range": lambda: awq_check(NoFloorAwq()),
    "AutoAWQ: range with 0": lambda: awq_check(WidenedAwq()),
    "AutoAWQ: zero added first": lambda: awq_check(ZeroBeforeRoundingAwq()),
    "AutoAWQ: float32": lambda: awq_check(AutoAWQ(dtype=torch.float32)),
    "AutoAWQ: compressed-tensors' rounding": lambda: awq_check(CompressedTensors()),
    "AutoAWQ: natural order": lambda: awq_check(packing=awq(awq_order(0, 1, 2, 3, 4, 5, 6, 7))),
    "AutoAWQ: the inverse order": lambda: awq_check(packing=awq(awq_order(0, 4, 1, 5, 2, 6, 3, 7))),
    "AutoAWQ: zero points in order": lambda: awq_check(packing=awq(awq_zeros_in_order)),
    "AutoAWQ: zero points less 1": lambda: awq_check(packing=awq(zeros_minus_one)),
    "AutoAWQ: scales not transposed": lambda: awq_check(packing=awq(not_transposed("scales"))),
    "GPTQ: ties away from 0": lambda: gptq_check(TiesAwayGptq()),
    "GPTQ: always mirrored": lambda: gptq_check(AlwaysMirroredGptq()),
    "GPTQ: zero groups": lambda: gptq_check(EmptyGptq()),
    "GPTQ: zero points cut off": lambda: gptq_check(FlooredZeroGptq()),
    "GPTQ: compressed-tensors' rounding": lambda: gptq_check(CompressedTensors()),
    "GPTQ: version 1 for 2": lambda: gptq_check(shift=1),
    "GPTQ: codes not transposed": lambda: gptq_check(spoil=not_transposed("qweight")),
    "GPTQ: bytes high": lambda: gptq_check(spoil=words_high_first("qweight")),
    "GPTQ: g_idx counts columns": lambda: gptq_check(spoil=in_groups_of_one_size_more),
}


def test_the_right_ones_pass() -> None:
    awq_check()
    compressed_check()
    compressed_check(symmetric=True)
    compressed_check(bits=3)
    int8_check()
    gptq_check()


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_checks_kill(mutant: str) -> None:
    assert not passes(MUTANTS[mutant])
