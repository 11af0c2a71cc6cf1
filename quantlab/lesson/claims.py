"""The claims ledger: what two widely read texts say about quantization, and what a computation makes of each sentence.

The course does not repeat numbers; it computes, measures or corrects them. Every claim is data (`ledger/lesson_N.json`:
id, source, statement, inputs) and, once its lesson is there, a check: a function of those inputs. Change an input and
the verdict follows.

>>> check("M6").verdict
'does not hold'
>>> check("M6", memory_gb=200).verdict  # on a card that does not exist the model would run, and not only in 4 bits
'holds if'
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quantlab.errors import UsageError, unknown
from quantlab.lesson.ledger import fitting, tables
from quantlab.lesson.ledger.verdicts import OPEN, Finding, NotHereError

SOURCES = {"G": "a practitioner's guide to AWQ", "L": "a five-concept lesson on quantization"}


def _later(module: str, name: str) -> Callable[..., Finding]:
    """A check whose module is imported when it is run: what needs torch does not slow down what does not."""

    def run(**inputs: Any) -> Finding:
        check: Callable[..., Finding] = getattr(import_module(f"quantlab.lesson.ledger.{module}"), name)
        return check(**inputs)

    return run


CHECKS: Mapping[str, Callable[..., Finding]] = {
    "M1": fitting.m1, "M2": fitting.m2, "M3": fitting.m3, "M4": fitting.m4, "M5": fitting.m5, "M6": fitting.m6,
    "M7": fitting.m7, "M8": tables.m8, "M9": tables.m9, "M10": fitting.m10, "M11": fitting.m11, "M12": tables.m12,
    "M13": tables.m13,
    **{f"R{number}": _later("rounding", f"r{number}") for number in (1, 2, 3, 8)},
    **{f"R{number}": _later("measured", f"r{number}") for number in (4, 5, 6, 7)},
    **{f"F{number}": _later("contests", f"f{number}") for number in (1, 2, 3)},
    **{f"F{number}": _later("running", f"f{number}") for number in (4, 5)},
    **{f"F{number}": _later("cited", f"f{number}") for number in (6, 7, 8, 9)},
    "F10": _later("loading", "f10"), "F11": _later("contests", "f11"), "F12": _later("running", "f12"),
    "F13": _later("loading", "f13"), "F14": _later("finetuning", "f14"), "F15": _later("contests", "f15"),
    **{f"Q{number}": _later("curve", f"q{number}") for number in (1, 2, 6, 8)},
    "Q7": _later("reasoning", "q7"),
    **{f"Q{number}": _later("speed", f"q{number}") for number in (3, 4, 5)},
    **{f"S{number}": _later("money", f"s{number}") for number in (2, 3, 4, 5, 6, 10, 13)},
    **{f"S{number}": _later("serving", f"s{number}") for number in (7, 8, 9, 11, 12)},
    "S1": _later("speed", "s1"), "S14": _later("speed", "s14"),
}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A sentence that learners meet, where it stands (G, L or G+L), and the numbers it rests on."""

    id: str
    source: str
    lesson: int
    statement: str
    inputs: Mapping[str, Any]

    @property
    def source_names(self) -> str:
        """The source in words."""
        return " and ".join(SOURCES[letter] for letter in self.source.split("+"))


@dataclass(frozen=True)
class Answer:
    """A claim with its verdict, our figure, and how it was obtained; no figure while it is open."""

    claim: Claim
    verdict: str
    figure: str | None
    how: str

    def to_json(self) -> dict[str, Any]:
        """The row that `quantlab claims --json` prints."""
        about = {"id": self.claim.id, "source": self.claim.source, "lesson": self.claim.lesson}
        return {**about, "verdict": self.verdict, "figure": self.figure, "how": self.how}


@lru_cache(maxsize=1)
def claims() -> Mapping[str, Claim]:
    """Every claim by its id, in the order of the course."""
    found: dict[str, Claim] = {}
    for path in sorted((Path(__file__).parent / "ledger").glob("lesson_*.json")):
        sheet = json.loads(path.read_text(encoding="utf-8"))
        for row in sheet["claims"]:
            inputs = MappingProxyType(row.get("inputs", {}))
            found[row["id"]] = Claim(row["id"], row["source"], sheet["lesson"], row["statement"], inputs)
    return MappingProxyType(found)


def claim(claim_id: str) -> Claim:
    """The claim of this id, such as `M6`; an unknown one raises with the nearest."""
    known = claims()
    if claim_id.strip().upper() not in known:
        raise unknown("claim", claim_id, known)
    return known[claim_id.strip().upper()]


def check(claim_id: str, **changed: Any) -> Answer:
    """Compute a claim's verdict from its inputs, some of them changed.

    Raises UsageError for an unknown claim or input, a number that is not positive, or another kind of value.
    """
    chosen = claim(claim_id)
    for name, value in changed.items():
        _acceptable(chosen, name, value)
    if chosen.id not in CHECKS:
        return Answer(chosen, OPEN, None, f"lesson {chosen.lesson}")
    try:
        finding = CHECKS[chosen.id](**{**chosen.inputs, **changed})
    except NotHereError as reason:
        return Answer(chosen, OPEN, None, str(reason))
    return Answer(chosen, finding.verdict, finding.figure, finding.how)


def check_all() -> list[Answer]:
    """Every claim, answered or open, in the order of the course."""
    return [check(claim_id) for claim_id in claims()]


def _acceptable(chosen: Claim, name: str, value: Any) -> None:
    if name not in chosen.inputs:
        raise unknown(f"input of {chosen.id}", name, chosen.inputs)
    usual = chosen.inputs[name]
    numeric = usual is None or isinstance(usual, int | float)
    if numeric and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf")):
        raise UsageError(f"{name} of {chosen.id} must be a number above 0, it is {value!r}")
    if not numeric and not isinstance(value, type(usual)):
        raise UsageError(f"{name} of {chosen.id} must be like {usual!r}, it is {value!r}")
