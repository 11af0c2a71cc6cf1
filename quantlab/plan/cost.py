"""What tokens cost: dollars an hour divided by tokens an hour, and a day of traffic with every assumption in sight.

    dollars for a million tokens  =  dollars an hour / (tokens a second x 3600) x 10^6

The formula hides the assumption that decides: that the machine is busy all the time at that speed. A machine that waits
costs the same. `Day` therefore names what a day is made of, and `cost_of_day` writes its calculation down, line by
line, so that a figure such as "$200 a day" can be asked what it assumes (`seconds_for`). Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantlab.errors import UsageError
from quantlab.plan.roofline import between, whole

DAY_S = 24 * 3600
BILLED = ("busy", "always")


def usd_per_million(usd_per_hour: float, tokens_per_s: float) -> float:
    """Dollars for a million tokens of a machine that is never idle.

    >>> round(usd_per_million(3.28, 1200), 3)
    0.759
    """
    tokens_an_hour = between("tokens_per_s", tokens_per_s, 1e-9, 1e12) * 3600
    return between("usd_per_hour", usd_per_hour, 0, 1e9) / tokens_an_hour * 1e6


@dataclass(frozen=True)
class Day:
    """The assumptions of a day of traffic.

    requests          in the whole day
    output_tokens     written for each; `first_token_s` passes before the first
    tokens_per_s      what *one* request sees while others are served beside it
    at_once           requests that one machine serves at the same time
    usd_per_hour      of one machine
    peak              the busiest hour's traffic against the mean: machines are rented for it
    billed            "always": so many machines for 24 hours; "busy": only the hours that are worked, by the second
    """

    requests: int
    output_tokens: int
    tokens_per_s: float
    at_once: int
    usd_per_hour: float
    first_token_s: float = 0.0
    peak: float = 1.0
    billed: str = "always"

    def __post_init__(self) -> None:
        for name in ("requests", "output_tokens", "at_once"):
            whole(name, getattr(self, name))
        for name, least, most in (
            ("tokens_per_s", 1e-6, 1e9),
            ("usd_per_hour", 0, 1e9),
            ("first_token_s", 0, 1e6),
            ("peak", 1, 1000),
        ):
            between(name, getattr(self, name), least, most)
        if self.billed not in BILLED:
            raise UsageError(f"billed must be one of {', '.join(BILLED)}, it is {self.billed!r}")

    @property
    def seconds_each(self) -> float:
        """How long one request takes."""
        return self.first_token_s + self.output_tokens / self.tokens_per_s

    @property
    def in_system(self) -> float:
        """Requests in progress in the busiest hour, by Little's law."""
        return self.requests / DAY_S * self.peak * self.seconds_each


@dataclass(frozen=True)
class DayCost:
    """The result of a `Day`; `lines` is the calculation as text."""

    day: Day
    machines: int
    machine_hours: float
    usd: float
    lines: tuple[str, ...]

    @property
    def usd_per_request(self) -> float:
        """Dollars for one request."""
        return self.usd / self.day.requests

    @property
    def usd_per_million(self) -> float:
        """Dollars for a million written tokens, idle hours paid."""
        return self.usd / (self.day.requests * self.day.output_tokens) * 1e6

    def __str__(self) -> str:
        return "\n".join(self.lines)


def cost_of_day(day: Day) -> DayCost:
    """What the day costs, and how that is reckoned.

    >>> naive = Day(requests=10_000, output_tokens=250, tokens_per_s=12, at_once=1, usd_per_hour=1.006)
    >>> round(cost_of_day(naive).usd), cost_of_day(naive).machines
    (72, 3)
    """
    busy = day.requests * day.seconds_each / day.at_once / 3600
    machines = math.ceil(day.in_system / day.at_once - 1e-9)
    hours = busy if day.billed == "busy" else machines * 24.0
    usd = hours * day.usd_per_hour
    paid = f"{hours:,.1f} hours, as they are worked" if day.billed == "busy" else f"{machines} machines x 24 hours"
    lines = (
        f"one request: {day.first_token_s:g} s + {day.output_tokens:,} tokens / {day.tokens_per_s:g} a second"
        f" = {day.seconds_each:,.1f} s",
        f"in progress: {day.requests:,} a day / 86,400 s x peak {day.peak:g} x {day.seconds_each:,.1f} s"
        f" = {day.in_system:,.1f} requests",
        f"machines: {day.in_system:,.1f} / {day.at_once} at once, rounded up = {machines}",
        f"work: {day.requests:,} x {day.seconds_each:,.1f} s / {day.at_once} at once = {busy:,.1f} machine hours"
        f" ({100 * busy / (machines * 24):.0f}% of {machines} x 24)",
        f"paid: {paid} x ${day.usd_per_hour:g} = ${usd:,.2f} a day",
    )
    return DayCost(day, machines, hours, usd, lines)


def seconds_for(usd_per_day: float, requests: int, usd_per_hour: float, at_once: int = 1) -> float:
    """How long each request must take for a day's bill to be this, on machines billed while they work.

    >>> round(seconds_for(200, 10_000, usd_per_hour=1.006))
    72
    """
    hours = between("usd_per_day", usd_per_day, 0, 1e12) / between("usd_per_hour", usd_per_hour, 1e-6, 1e9)
    return hours * 3600 * whole("at_once", at_once) / whole("requests", requests)
