"""When requests are sent.

    open loop     at times that do not depend on the answers: users who do not know of each other
                  poisson   gaps drawn from an exponential distribution: the usual model of independent users
                  constant  equal gaps
                  burst     so many at the same moment, then a pause; the rate on average is the same
    closed loop   so many requests are always on their way; the next is sent when one is answered

In an open loop a request that is sent late is timed from when it **should** have been sent. Otherwise a server that
stands still for a second would delay the sending too, and the wait would not be seen ("coordinated omission"; G. Tene,
"How NOT to measure latency", 2013).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from quantlab.errors import UsageError

PROCESSES = ("poisson", "constant", "burst")
BURST = 8  # requests at the same moment


@dataclass(frozen=True)
class Load:
    """A schedule: `rate` requests a second (open loop), or `concurrency` at once (closed loop); never both.

    requests: how many in all. seed: of the Poisson gaps, so that two servers can be given the same schedule.
    """

    requests: int
    rate: float | None = None
    concurrency: int | None = None
    process: str = "poisson"
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.concurrency is None):
            raise UsageError("give a rate (requests a second) or a concurrency (requests at once), one of the two")
        if self.rate is not None and not 0 < self.rate <= 1e5:
            raise UsageError(f"rate must be above 0 and at most 100,000 requests a second, got {self.rate}")
        for what, value in (("requests", self.requests), ("concurrency", self.concurrency)):
            if value is not None and not 1 <= value <= 10**6:
                raise UsageError(f"{what} must be from 1 to 1,000,000, got {value}")
        if self.process not in PROCESSES:
            raise UsageError(f"process must be one of {', '.join(PROCESSES)}, got {self.process!r}")

    @property
    def is_open(self) -> bool:
        """Whether requests are sent without waiting for answers."""
        return self.rate is not None

    def times(self) -> list[float]:
        """Seconds after the start at which each request of an open loop is due, in order.

        >>> Load(requests=3, rate=2, process="constant").times()
        [0.0, 0.5, 1.0]
        """
        assert self.rate is not None
        if self.process == "constant":
            return [at / self.rate for at in range(self.requests)]
        if self.process == "burst":
            return [at // BURST * BURST / self.rate for at in range(self.requests)]
        dice, now, times = random.Random(self.seed), 0.0, []
        for _ in range(self.requests):
            times.append(now)
            now += dice.expovariate(self.rate)
        return times

    def words(self) -> str:
        """The schedule in words."""
        if self.rate is None:
            return f"{self.requests} requests, {self.concurrency} at once"
        return f"{self.requests} requests, {self.rate:g} a second ({self.process})"
