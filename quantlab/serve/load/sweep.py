"""A sweep: one server at one load after the other, the front of throughput and waiting, and the most within a limit.

Throughput and waiting pull against each other: requests that are under way together share each step, and each of them
takes longer. A load is on the **Pareto front** if no other one gave as many tokens a second with as short a wait, one
of the two better. Past its end more load buys waiting only.

Under limits (a service level objective) the question is another one: the highest rate of an *open* loop at which enough
requests are good. A closed loop cannot answer it, for it slows down with its server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from quantlab.errors import UsageError
from quantlab.serve.load.arrivals import Load
from quantlab.serve.load.report import Report

ENOUGH = 0.95  # of the requests must be good for a rate to count as kept
Measure = Callable[[Load], Report]


def sweep(measure: Measure, loads: Iterable[Load]) -> list[Report]:
    """One report a load, in the order given; `measure` runs one load test (`loadtest` with all but the load given)."""
    return [measure(load) for load in loads]


def wait(report: Report) -> float:
    """What the front calls waiting: the 95th percentile of the time to a whole answer, in seconds."""
    return math.inf if report.e2e.p95 is None else report.e2e.p95


def front(reports: Sequence[Report]) -> list[Report]:
    """Those that no other one beats in tokens a second and in waiting, slowest first; none without answers."""

    def beaten(one: Report) -> bool:
        return any(
            other.tokens_per_s >= one.tokens_per_s
            and wait(other) <= wait(one)
            and (other.tokens_per_s > one.tokens_per_s or wait(other) < wait(one))
            for other in reports
        )

    return sorted((one for one in reports if one.answered and not beaten(one)), key=lambda one: one.tokens_per_s)


@dataclass(frozen=True)
class Search:
    """A search for the highest rate that is kept. kept, broken: the two reports between which it lies, or None."""

    tried: tuple[Report, ...]
    kept: Report | None
    broken: Report | None

    @property
    def rate(self) -> float:
        """Requests a second that were kept; 0.0 if not even the lowest rate was."""
        return self.kept.load.rate or 0.0 if self.kept else 0.0

    def words(self) -> str:
        """The result in one sentence."""
        if self.kept is None:
            return f"not even {min(one.load.rate or 0 for one in self.tried):.3g} requests a second keep the limits"
        most = f"{self.rate:.3g} requests a second keep the limits ({self.kept.good_share:.0%} good)"
        if self.broken is None:
            return f"{most}, the highest rate that was tried"
        return f"{most}, {self.broken.load.rate:.3g} do not ({self.broken.good_share:.0%} good)"


def highest_rate(measure: Measure, first: Load, *, tests: int = 6, enough: float = ENOUGH) -> Search:
    """The highest rate of `first`'s kind of open loop at which a share of `enough` requests is good.

    The rate is doubled (or halved) from `first.rate` until the limits break (or hold), then the gap is halved, on a
    scale of ratios, as long as there are `tests` left. A test of few requests has few bad ones to count: with 40 one
    more or less is 2.5%, and two searches may end a step apart.
    """
    if first.rate is None:
        raise UsageError("the highest rate is searched with an open loop; give the load a rate")
    if tests < 1 or not 0 < enough <= 1:
        raise UsageError(f"a search needs at least 1 test, and a share above 0 and at most 1; got {tests} and {enough}")
    kept: Report | None = None
    broken: Report | None = None
    tried: list[Report] = []
    rate = first.rate
    for _ in range(tests):
        found = measure(replace(first, rate=rate))
        tried.append(found)
        if found.good_share >= enough:
            kept = found
        else:
            broken = found
        rate = _next(kept, broken)
    return Search(tuple(tried), kept, broken)


def _next(kept: Report | None, broken: Report | None) -> float:
    """Twice what was kept, half of what broke, or what lies between."""
    low = kept.load.rate if kept else None
    high = broken.load.rate if broken else None
    if low and high:
        return math.sqrt(low * high)
    return 2 * low if low else (high or 0.0) / 2
