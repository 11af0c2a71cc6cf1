"""From a load test to machines and money: what a measured server is worth, with every assumption in sight.

The plan (quantlab.plan.capacity) says what a card can do at best. A load test says what a server did within its limits;
from there on the arithmetic is the same:

    requests a day  =  rate that keeps the limits x 86,400 / peak          peak: the busiest hour against the mean
    servers         =  requests a day x peak / (86,400 x rate), rounded up
    dollars for a million tokens  =  dollars an hour / (tokens an hour) x 10^6 x peak: between peaks the server waits,
                                     and costs the same
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantlab.errors import QuantlabError
from quantlab.plan.cost import DAY_S, usd_per_million
from quantlab.plan.roofline import between, whole
from quantlab.serve.load.report import Report


@dataclass(frozen=True)
class Sized:
    """What one server keeps: good requests a second, and tokens of an answer on average; dollars an hour it costs.

    >>> one = Sized(rate=2.0, output_tokens=250, usd_per_hour=1.0, peak=2.0)
    >>> one.requests_a_day, one.servers(200_000), round(one.usd_per_million, 3)
    (86400.0, 3, 1.111)
    """

    rate: float
    output_tokens: float
    usd_per_hour: float
    peak: float = 1.0

    def __post_init__(self) -> None:
        between("rate", self.rate, 1e-9, 1e9)
        between("output_tokens", self.output_tokens, 1e-9, 1e9)
        between("usd_per_hour", self.usd_per_hour, 0, 1e9)
        between("peak", self.peak, 1, 1000)

    @classmethod
    def of(cls, report: Report, usd_per_hour: float, peak: float = 1.0) -> Sized:
        """From a load test, by its *good* requests; raises QuantlabError where none was good.

        Of an open loop it is the rate at which they were sent, times the good share: the seconds that the last answers
        take after the last was sent would count against a short test, and are no part of a day.
        """
        if not report.good:
            raise QuantlabError("no request kept the limits, so the server has no size; lower the load or the limits")
        rate = report.goodput if report.load.rate is None else report.load.rate * report.good_share
        return cls(rate, report.output_tokens / report.answered, usd_per_hour, peak)

    @property
    def requests_a_day(self) -> float:
        """That one server takes if the busiest hour just keeps the limits."""
        return self.rate * DAY_S / self.peak

    @property
    def usd_per_million(self) -> float:
        """Dollars for a million written tokens, idle hours paid."""
        return usd_per_million(self.usd_per_hour, self.rate * self.output_tokens) * self.peak

    def servers(self, requests_a_day: int) -> int:
        """How many servers so many requests a day take."""
        return math.ceil(whole("requests_a_day", requests_a_day) / self.requests_a_day - 1e-9)

    def words(self) -> str:
        """One sentence with its assumptions."""
        return (
            f"{self.rate:.3g} good requests a second of {self.output_tokens:.0f} tokens, in the busiest hour "
            f"{self.peak:g} x the mean: {self.requests_a_day:,.0f} requests a day, at ${self.usd_per_hour:g} an hour "
            f"${self.usd_per_million:,.2f} for a million tokens"
        )
