"""K-quants that are wrong on purpose: each must be told apart by the golden bytes of tests/golden.

A mutant is the text of a module with one expression replaced; the modules above it are built on it anew.
"""

from __future__ import annotations

import base64
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from golden.kquant_cases import CASES, importances

_FILE = Path(__file__).parents[1] / "golden" / "kquant_blocks.json"
GOLDEN: dict[str, str] = json.loads(_FILE.read_text())["blocks"]
MODULES = (
    "gguf_search",
    "gguf_k_super",
    "gguf_k_bytes",
    "gguf_search_min",
    "gguf_search_turns",
    "gguf_k_lines",
    "gguf_k_scales",
)


@dataclass(frozen=True)
class Mutant:
    """In `module`, `old` becomes `new`; `kind` is a format whose bytes must change."""

    module: str
    kind: str
    old: str
    new: str


MUTANTS = {
    # rounding
    "half away from zero": Mutant(
        "gguf_search_min",
        "q6_k",
        "((x + _MAGIC).view(torch.int32) & 0x7FFFFF) - 0x400000",
        "(x.abs() + 0.5).floor().mul(x.sign()).int()",
    ),
    "codes truncated": Mutant("gguf_search_min", "q4_k", "return q.round_()", "return q.trunc_()"),
    "rounding that never runs over": Mutant(
        "gguf_search_min", "q5_k", "if (furthest.abs() <= _REACH).all()", "if True"
    ),
    "final rounding that never runs over": Mutant("gguf_k_lines", "q4_k", "nearest_int((x +", "torch.round((x +"),
    "overrunning rounding everywhere or nowhere": Mutant("gguf_search_min", "q4_k", "0x7FFFFF", "0x3FFFFF"),
    # sums and divisions
    "sums of pairs": Mutant(
        "gguf_search_min",
        "q4_k",
        "S_q, S_qq, S_xq = sum_in_order(self.moments)",
        "S_q, S_qq, S_xq = self.moments.flip(0).sum(0)",
    ),
    "errors summed in float64": Mutant(
        "gguf_search_min",
        "q4_k",
        "return sum_in_order(off.mul_(self.w))",
        "return off.mul_(self.w).double().sum(0).float()",
    ),
    "a reciprocal for a quotient": Mutant(
        "gguf_search_min", "q4_k", "inverse_now = levels / (top - low)", "inverse_now = levels * (1 / (top - low))"
    ),
    "mean over the super-block": Mutant(
        "gguf_k_lines", "q4_k", "root(sum_in_order(x * x) / len(x))", "root(sum_in_order(x * x) / len(x)).mean()"
    ),
    # the search of a line
    "a tie goes to the later try": Mutant("gguf_search_min", "q4_k", "error < best", "error <= best"),
    "every try rounds from the first low": Mutant(
        "gguf_search_min", "q4_k", "low = torch.where(wins, low_now, low)", "low = low"
    ),
    "a low above zero": Mutant("gguf_search_min", "q4_k", "low.clamp(max=0), D", "low, D"),
    "the low of positive blocks": Mutant(
        "gguf_search_min", "q4_k", "low = lines.bottom.clamp(max=0)", "low = lines.bottom"
    ),
    "no second regression through zero": Mutant(
        "gguf_search_min", "q4_k", "torch.where(low > 0, S_xq / S_qq, scale)", "scale"
    ),
    "flat blocks have a scale": Mutant("gguf_search_min", "q4_k", "return scale.masked_fill(flat, 0)", "return scale"),
    "squared errors in Q2_K": Mutant("gguf_k_lines", "q2_k", "absolute=True", "absolute=False"),
    "fewer tries": Mutant("gguf_k_lines", "q4_k", "count=21", "count=12"),
    "Q5_K searches like Q4_K": Mutant(
        "gguf_k_lines",
        "q5_k",
        "Stretch(31, first=-0.5, step=0.1, count=16)",
        "Stretch(31, first=-1.0, step=0.1, count=21)",
    ),
    # units
    "a zero with a sign": Mutant("gguf_search_turns", "q4_k", "clamp(min=0).abs()", "clamp(min=0)"),
    "the unit is not searched": Mutant("gguf_search_turns", "q4_k", "(-4, -3, -2, -1, 1, 2, 3, 4)", "()"),
    "four rounds of turns": Mutant("gguf_search_turns", "q3_k", "range(5)", "range(1)"),
    "a turn for those who would not gain": Mutant(
        "gguf_search_turns", "q3_k", "xq * xq * S_qq > S_xq * S_xq * qq", "xq > 0"
    ),
    "turns whatever the sign": Mutant("gguf_search_turns", "q3_k", "(xq > 0) & ", ""),
    "codes do not wrap": Mutant("gguf_search_turns", "q4_k", "q.remainder(256)", "q.clamp(min=0)"),
    "the largest in size, not the first": Mutant(
        "gguf_search",
        "q6_k",
        "x.abs().argmax(0, keepdim=True)",
        "(len(x) - 1 - x.abs().flip(0).argmax(0, keepdim=True))",
    ),
    # two levels
    "codes for the line that was fitted": Mutant("gguf_k_super", "q4_k", "return half", "return d"),
    "codes for the unrounded d": Mutant("gguf_k_super", "q6_k", "return half", "return d"),
    "the codes of lost scales": Mutant(
        "gguf_k_lines", "q4_k", "torch.where(zero, searched.reshape(q.shape), q.to(torch.uint8))", "q.to(torch.uint8)"
    ),
    "the codes of lost scales, Q3_K": Mutant(
        "gguf_k_scales", "q3_k", "torch.where(zero, searched.reshape(q.shape), q.to(torch.uint8))", "q.to(torch.uint8)"
    ),
    "scales of nothing": Mutant("gguf_k_scales", "q3_k", "all(1, keepdim=True), -32)", "all(1, keepdim=True), 0)"),
    "super-blocks below 1e-15": Mutant("gguf_k_scales", "q6_k", "< SMALLEST", "< 0"),
    "the mean square counts once": Mutant("gguf_k_lines", "q4_k", "sigma: int = 2", "sigma: int = 1"),
    "importance alone": Mutant(
        "gguf_k_lines", "q4_k", "importance * root(sigma2[:, None] + blocks * blocks)", "importance.expand_as(blocks)"
    ),
    "importance left out": Mutant(
        "gguf_k_scales", "q6_k", "None if importance is None else importance.reshape(x.shape)", "None"
    ),
    # bytes
    "nibbles the other way": Mutant(
        "gguf_k_bytes", "q4_k", "qs = join(_of(q, 4, 2, 32), 4)", "qs = join(_of(q, 4, 2, 32).flip(2), 4)"
    ),
    "neighbours share a byte": Mutant(
        "gguf_k_bytes", "q2_k", "qs = join(_of(q, 2, 4, 32), 2)", "qs = join(_of(q, 2, 32, 4).mT, 2)"
    ),
    "high bits of neighbours": Mutant(
        "gguf_k_bytes", "q5_k", "qh, qs = join(_of(q >> 4, 8, 32), 1)", "qh, qs = join(_of(q >> 4, 32, 8).mT, 1)"
    ),
    "halves of 64 whole": Mutant(
        "gguf_k_bytes", "q6_k", "join(_of(q & 15, 2, 2, 64), 4)", "join(_of(q & 15, 4, 2, 32), 4)"
    ),
    "the mask the other way up": Mutant(
        "gguf_k_bytes", "q3_k", "hmask, qs = join(_of(q >> 2, 8, 32), 1)", "hmask, qs = join(1 - _of(q >> 2, 8, 32), 1)"
    ),
    "dmin before d": Mutant(
        "gguf_k_bytes",
        "q5_k",
        'half_bytes(_of(p["d"])), half_bytes(_of(p["dmin"])), scales, qh',
        'half_bytes(_of(p["dmin"])), half_bytes(_of(p["d"])), scales, qh',
    ),
    "scales in two plain halves": Mutant(
        "gguf_k_bytes", "q4_k", "(s_late & 15) | ((m_late & 15) << 4)", "(m_late & 15) | ((s_late & 15) << 4)"
    ),
    "scales without 32": Mutant("gguf_k_bytes", "q3_k", '(_of(p["scale"], 16) + 32)', '_of(p["scale"], 16)'),
}


def _build(mutant: Mutant | None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The formats, by name, with one module mutated."""
    builders: dict[str, Any] = {}
    for name in MODULES:
        full = f"quantlab.formats.{name}"
        path = Path(importlib.import_module("quantlab.formats").__path__[0]) / f"{name}.py"
        text = path.read_text()
        if mutant is not None and name == mutant.module:
            assert mutant.old in text, "the mutant has nothing to bite on"
            text = text.replace(mutant.old, mutant.new)
        module = ModuleType(full)
        monkeypatch.setitem(sys.modules, full, module)
        exec(compile(text, str(path), "exec"), module.__dict__)
        builders |= getattr(module, "BUILDERS", {})
    return {name: build() for name, build in builders.items()}


def _wrong(formats: dict[str, Any], kind: str) -> Iterator[str]:
    """The golden cases of one format that come out otherwise."""
    for key, expected in GOLDEN.items():
        name, case, importance = key.split(" | ")
        if name != kind:
            continue
        try:
            got = formats[kind].quantize(CASES[case](), importances()[importance]).to_bytes()
        except (ValueError, RuntimeError):
            got = b""
        if got != base64.b64decode(expected):
            yield key


@pytest.mark.parametrize("kind", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
def test_without_a_mutation_nothing_is_wrong(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(_wrong(_build(None, monkeypatch), kind)) == []


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutants_are_told_apart(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(_wrong(_build(mutant, monkeypatch), mutant.kind), None)
