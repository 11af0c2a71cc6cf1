"""Ours against a reference library, in one run: the two take turns, and the ratio of their medians is the figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

Measure = Callable[[], float]


@dataclass(frozen=True)
class Versus:
    """One comparison. Each callable measures its side once and returns seconds (or MiB)."""

    name: str
    against: str  # package, version, setting
    reach: float  # theirs / ours must be at least this
    ours: Measure
    theirs: Measure
    repeats: int = 5
    unit: str = "s"


@dataclass(frozen=True)
class Result:
    """Medians of both sides."""

    row: Versus
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times less ours takes."""
        return self.theirs / self.ours


def measure(row: Versus) -> Result:
    """Alternate both sides `repeats` times, after one unmeasured turn each."""
    row.ours(), row.theirs()
    turns = [(row.ours(), row.theirs()) for _ in range(row.repeats)]
    return Result(row, statistics.median(a for a, _ in turns), statistics.median(b for _, b in turns))
