"""Wrong variants of the blocks of 32: each makes other bytes than llama.cpp somewhere on the weights of gguf_weights.

So the golden hashes can tell all of them from the right ones. Most match on bell-shaped weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from block32_checks import GOLDEN
from gguf_weights import WEIGHTS, apart, importance, stacked
from golden.block32_cases import digest
from torch import Tensor

from quantlab.core import Format, Params, Parts
from quantlab.formats import gguf_iq4, gguf_legacy, gguf_search
from quantlab.formats.catalog import FORMATS
from quantlab.formats.gguf_blocks import BLOCK, Blocks, blocks_of, stored_half
from quantlab.formats.gguf_legacy import Centred, FromMinimum, Whole, inverse_of


def told_apart(fmt: Format, kind: str) -> set[str]:
    """The weights on which a format's bytes are not the golden ones."""
    made = fmt.quantize(stacked(), importance(kind)).parts["blocks"]
    return {case for case, blocks in apart(made).items() if digest(blocks) != GOLDEN[f"{fmt.name} | {case} | {kind}"]}


class HalvesToEven(Centred):
    """Rounds as torch does."""

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """round(w / d) + middle."""
        middle = 2 ** (self.bits - 1)
        q = (blocks_of(W) * p["inverse"][..., None]).round() + middle
        return q.masked_fill(p["inverse"][..., None].isinf(), 0).clamp(0, 2 * middle - 1).to(torch.uint8).flatten(1)


class StoredScale(Centred):
    """Chooses the codes for the scale that is stored, as would be more accurate."""

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """The inverse of the rounded scale."""
        p = super().fit(W)
        return {**p, "inverse": inverse_of(p["scale"])}


class Magnitude(Centred):
    """Forgets the sign of the largest weight."""

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """A scale that is never positive."""
        d = blocks_of(W).abs().amax(-1).float() / -(2 ** (self.bits - 1))
        return {"scale": stored_half(d), "inverse": inverse_of(d)}


class LastOfEquals(Centred):
    """Takes the last of two weights of equal magnitude."""

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """The same, of the block from its end."""
        return super().fit(blocks_of(W).flip(-1).flatten(1))


class InfinityIgnored(Centred):
    """Leaves out the case of a block so small that 1/d is infinite."""

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """An inverse of 0 there: the middle code."""
        p = super().fit(W)
        return {**p, "inverse": p["inverse"].masked_fill(p["inverse"].isinf(), 0)}


class EightEven(Whole):
    """Q8_0 with halves to even."""

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """Round as torch does."""
        inverse = p["inverse"][..., None].masked_fill(p["inverse"][..., None].isinf(), 0)
        return (blocks_of(W).float() * inverse).round().to(torch.int8).flatten(1)


class EightHalfAdded(Whole):
    """Q8_0 that adds 0.5 before it cuts: 0.49999997 becomes 1."""

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """trunc(y + copysign(0.5, y))."""
        inverse = p["inverse"][..., None].masked_fill(p["inverse"][..., None].isinf(), 0)
        y = blocks_of(W).float() * inverse
        return (y + torch.copysign(torch.tensor(0.5), y)).to(torch.int8).flatten(1)


class ZeroIncluded(FromMinimum):
    """Q4_1 whose minimum is never above zero, as a K-quant's."""

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """min(0, smallest)."""
        x = blocks_of(W).float()
        low = x.amin(-1).clamp(max=0)
        d = (x.amax(-1) - low) / (2**self.bits - 1)
        return {"scale": stored_half(d), "min": stored_half(low), "inverse": inverse_of(d), "start": low}


class Neighbours(Blocks):
    """Puts neighbours into one byte, as most formats do."""

    def pack(self, q: Tensor, p: Params) -> Parts:
        """q[2j + 1] | q[2j]."""
        return super().pack(q.reshape(len(q), -1, BLOCK // 2, 2).transpose(-1, -2).flatten(1), p)


class HighFirst(Blocks):
    """Puts the first half of the block into the high nibbles."""

    def pack(self, q: Tensor, p: Params) -> Parts:
        """q[j] | q[j + 16]."""
        return super().pack(q.reshape(len(q), -1, 2, BLOCK // 2).flip(-2).flatten(1), p)


def _halves_of_levels_down(x: Tensor) -> Tensor:
    return gguf_iq4.nearest_of(gguf_iq4._CODES, torch.nextafter(2 * x, torch.tensor(-9e9)).nan_to_num_(torch.inf))


FORMAT_MUTANTS: dict[str, Callable[[], Format]] = {
    "halves to even": lambda: replace(FORMATS["q4_0"], grid=HalvesToEven(4)),
    "halves to even, 5 bits": lambda: replace(FORMATS["q5_0"], grid=HalvesToEven(5)),
    "codes for the stored scale": lambda: replace(FORMATS["q4_0"], grid=StoredScale(4)),
    "largest without sign": lambda: replace(FORMATS["q4_0"], grid=Magnitude(4)),
    "last of equals": lambda: replace(FORMATS["q4_0"], grid=LastOfEquals(4)),
    "infinite inverse ignored": lambda: replace(FORMATS["q4_0"], grid=InfinityIgnored(4)),
    "Q8_0 halves to even": lambda: replace(FORMATS["q8_0"], grid=EightEven()),
    "Q8_0 adds a half": lambda: replace(FORMATS["q8_0"], grid=EightHalfAdded()),
    "minimum below zero": lambda: replace(FORMATS["q4_1"], grid=ZeroIncluded(4)),
    "minimum below zero, 5 bits": lambda: replace(FORMATS["q5_1"], grid=ZeroIncluded(5)),
    "neighbours in a byte": lambda: replace(FORMATS["q4_0"], packing=Neighbours(4)),
    "high nibble first": lambda: replace(FORMATS["q4_1"], packing=HighFirst(4, minimum=True)),
    "fifth bits among neighbours": lambda: replace(FORMATS["q5_0"], packing=Neighbours(5)),
}


@pytest.mark.parametrize("mutant", FORMAT_MUTANTS)
def test_a_wrong_format_is_told_apart(mutant: str) -> None:
    fmt = FORMAT_MUTANTS[mutant]()
    assert told_apart(fmt, "none")
    assert not told_apart(FORMATS[fmt.name], "none")


def _unsigned_zero(x: Tensor, low: Tensor) -> Tensor:
    return low.abs() if (low == 0).all() else torch.where(low == 0, 0.0, low)


def _without_row(W: Tensor, costs: Tensor) -> Tensor:
    return costs * W.abs()


def _of_block(W: Tensor, costs: Tensor) -> Tensor:
    x = W.float().reshape(len(W), -1, BLOCK)
    return costs.float() * gguf_search.root(x.square().mean(-1, keepdim=True) + x * x).flatten(1)


_search = gguf_search.search
PATCHES: dict[str, tuple[str, str, str, object, str]] = {  # type, importance, module, what it becomes, name
    "-0 forgotten": ("q4_1", "none", "gguf_legacy", _unsigned_zero, "first_zero"),
    "no search": ("q4_0", "drawn", "gguf_search", lambda tries, sums: _search([next(iter(tries))], sums), "search"),
    "importance without the row": ("q4_0", "drawn", "gguf_legacy", _without_row, "importance_weights"),
    "mean square of the block": ("q5_0", "drawn", "gguf_legacy", _of_block, "importance_weights"),
    "sum by pairs": ("iq4_xs", "drawn", "gguf_iq4", lambda terms: terms.sum(0), "sum_in_order"),
    "tiny blocks searched": ("q4_0", "drawn", "gguf_search", 1e-30, "SMALLEST"),
    "IQ4 without search": ("iq4_nl", "none", "gguf_iq4", lambda tries, sums: _search(list(tries)[:1], sums), "search"),
}
MODULES = {"gguf_legacy": gguf_legacy, "gguf_search": gguf_search, "gguf_iq4": gguf_iq4}


@pytest.mark.parametrize("mutant", PATCHES)
def test_a_wrong_step_is_told_apart(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, costs, module, wrong, name = PATCHES[mutant]
    assert not told_apart(FORMATS[kind], costs)
    monkeypatch.setattr(MODULES[module], name, wrong)
    assert told_apart(FORMATS[kind], costs)


def test_halfway_to_the_lower_level_is_told_apart() -> None:
    """No search ends with a weight exactly halfway; the boundaries themselves tell."""
    levels = torch.tensor(gguf_iq4.VALUES, dtype=torch.float32)
    middles = (levels[1:] + levels[:-1]) / 2
    assert gguf_iq4.nearest_code(middles).tolist() == list(range(1, 16))
    assert _halves_of_levels_down(middles).tolist() == list(range(15))


def test_bell_shaped_weights_alone_prove_little() -> None:
    """Why the hard weights are there: on these, half of the wrong formats are right."""
    alike = [name for name, build in FORMAT_MUTANTS.items() if "random" not in told_apart(build(), "none")]
    assert len(alike) >= 4
    assert WEIGHTS["random"].shape == (8, 512)
