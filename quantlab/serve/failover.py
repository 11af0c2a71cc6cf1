"""Kill one of several replicas under load, and count what became of every request.

The promise of a router is not that nothing fails: an answer of which a part has been passed on cannot be mended. It is
that **no accepted request is lost without an error that the client sees**. Two things would be such a loss:

    unanswered        neither an answer nor an error
    ended too soon    an answer that ends in good order for HTTP, but without its last line: a client that does not
                      look for it takes the part for the whole

`broken off` (the connection was cut), `no connection`, `timeout` and `HTTP 502` are errors that every client sees, and
may try again upon. The load is an open loop: requests go on arriving while the fleet is short of a replica.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from quantlab.errors import QuantlabError, UsageError
from quantlab.serve.load import Load, Report, loadtest
from quantlab.serve.load.request import ENDED, Sample
from quantlab.serve.replicas import Replicas

UNSEEN = ("unanswered", ENDED)  # kinds of the report that a client would not notice


@dataclass(frozen=True)
class Failover:
    """What a load test found while one replica was killed. Seconds count from the start of the test."""

    report: Report
    router: str
    killed_s: float
    grace_s: float

    @property
    def errors(self) -> dict[str, int]:
        """The errors that clients saw, by kind."""
        return {kind: count for kind, count in self.report.errors.items() if kind not in UNSEEN}

    @property
    def lost(self) -> int:
        """Requests of which the client cannot know that they failed."""
        return self.report.sent - self.report.answered - sum(self.errors.values())

    @property
    def flying(self) -> list[Sample]:
        """Requests that were on their way when the replica died."""
        return [one for one in self.report.samples if one.due <= self.killed_s and not _over(one, self.killed_s)]

    @property
    def after(self) -> list[Sample]:
        """Requests that were due after the kill and its grace."""
        return [one for one in self.report.samples if one.due > self.killed_s + self.grace_s]

    def words(self) -> str:
        """The figures, on one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.errors.items()) or "none"
        well = sum(one.ok for one in self.after)
        return (
            f"{self.router}: sent {self.report.sent}, answered {self.report.answered}, errors: {kinds}, "
            f"lost {self.lost}; a replica was killed at {self.killed_s:.1f} s of {self.report.seconds:.1f} s with "
            f"{len(self.flying)} requests on their way; {well} of {len(self.after)} that were due more than "
            f"{self.grace_s:g} s later were answered"
        )


def _over(sample: Sample, at_s: float) -> bool:
    """Whether a request had come to its end by then; of one that failed only its last piece is known."""
    end = sample.end if sample.end is not None else (sample.pieces[-1] if sample.pieces else None)
    return end is not None and end <= at_s and sample.ok


def kill_one(
    fleet: Replicas, prompts: Sequence[str], load: Load, *, max_tokens: int = 64, after: int = 0, grace_s: float = 1.0
) -> Failover:
    """Send this load to the router, and kill replica 0 when `after` requests have been answered (default: a third).

    Raises QuantlabError where the load was over before that.
    """
    after = after or max(1, load.requests // 3)
    if not load.is_open or not 0 < after < load.requests:
        raise UsageError("killing a replica under load needs an open loop (rate=...) with more requests than `after`")
    if len(fleet.servers) < 2:
        raise UsageError("killing the only replica proves nothing; start two or more")
    killed: list[float] = []

    def progress(done: int, total: int, errors: int) -> None:
        if done >= after and not killed:
            fleet.kill(0)
            killed.append(time.perf_counter())

    report = loadtest(fleet.url, fleet.key, prompts, load, max_tokens=max_tokens, progress=progress, warmup=0)
    began = time.perf_counter() - report.seconds
    if not killed:
        raise QuantlabError(f"only {report.answered} of {load.requests} requests were answered, so none was killed")
    return Failover(report, fleet.name, killed[0] - began, grace_s)
