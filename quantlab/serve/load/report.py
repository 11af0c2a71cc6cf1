"""What a load test found: percentiles, throughput, goodput, errors, and where and when it ran.

    ttft    time to first token, from when the request was due
    tpot    time per output token after the first, one figure a request      (vLLM's "TPOT")
    itl     inter-token latency, one figure a gap
    e2e     from when the request was due to the end of its answer

Percentiles are NumPy's (linear between neighbours), as in `vllm bench serve`. A request is *good* when it was answered
whole within all limits; goodput is good requests a second (Zhong et al. 2024, "DistServe", arXiv 2401.09670).
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from quantlab.errors import UsageError
from quantlab.serve.load.arrivals import Load
from quantlab.serve.load.request import Sample

POINTS = (50, 90, 95, 99)


@dataclass(frozen=True)
class Limits:
    """What an answer must keep to be good, in seconds; None asks nothing (a service level objective)."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be above 0 seconds, got {value}")

    def kept(self, sample: Sample) -> bool:
        """Whether this request was answered whole, within all limits."""
        pairs = ((self.ttft_s, sample.ttft), (self.tpot_s, sample.tpot), (self.e2e_s, sample.e2e))
        return sample.ok and all(limit is None or value is None or value <= limit for limit, value in pairs)


@dataclass(frozen=True)
class Percentiles:
    """Seconds: mean and percentiles; None where there was nothing to time."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Percentiles:
        """Of those that are there."""
        found = [value for value in values if value is not None]
        if not found:
            return cls()
        return cls(float(np.mean(found)), *(float(value) for value in np.percentile(found, POINTS)))


@dataclass(frozen=True)
class Report:
    """The result of a load test. Tokens and rates count whole answers only; errors are listed by kind, none is lost."""

    model: str
    load: Load
    seconds: float
    sent: int
    answered: int
    errors: dict[str, int]
    prompt_tokens: int
    output_tokens: int
    ttft: Percentiles
    tpot: Percentiles
    itl: Percentiles
    e2e: Percentiles
    late: Percentiles  # how long after its time a request was sent: the generator's own delay
    good: int
    limits: Limits | None
    machine: dict[str, str] = field(default_factory=dict)
    samples: tuple[Sample, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, samples: Sequence[Sample], load: Load, seconds: float, model: str, limits: Limits | None) -> Report:
        """From every request's sample."""
        whole = [sample for sample in samples if sample.ok]
        kept = (limits or Limits()).kept
        return cls(
            model, load, seconds, len(samples), len(whole),
            dict(Counter(sample.error or "unanswered" for sample in samples if not sample.ok)),
            sum(sample.prompt_tokens or 0 for sample in whole),
            sum(sample.output_tokens or len(sample.pieces) for sample in whole),
            Percentiles.of(sample.ttft for sample in whole), Percentiles.of(sample.tpot for sample in whole),
            Percentiles.of(gap for sample in whole for gap in sample.gaps),
            Percentiles.of(sample.e2e for sample in whole),
            Percentiles.of(None if sample.sent is None else sample.sent - sample.due for sample in samples),
            sum(kept(sample) for sample in samples), limits, passport(), tuple(samples),
        )  # fmt: skip

    @property
    def requests_per_s(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Output tokens a second, of all texts together."""
        return self.output_tokens / self.seconds

    @property
    def goodput(self) -> float:
        """Good answers a second."""
        return self.good / self.seconds

    @property
    def good_share(self) -> float:
        """Good answers, of all requests that were sent; one that failed is none."""
        return self.good / self.sent

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every figure, without the single requests."""
        names = ("model", "seconds", "sent", "answered", "errors", "prompt_tokens", "output_tokens", "requests_per_s",
                 "tokens_per_s", "good", "goodput", "machine")  # fmt: skip
        found = {name: getattr(self, name) for name in names}
        parts = {name: asdict(getattr(self, name)) for name in ("load", "ttft", "tpot", "itl", "e2e", "late")}
        return {**found, **parts, "limits": None if self.limits is None else asdict(self.limits)}

    def to_json(self) -> str:
        """One object."""
        return json.dumps(self.to_dict(), indent=1)


def passport() -> dict[str, str]:
    """When and where: the client's machine, which is the server's too where the address is this one's."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "platform": platform.platform(terse=True),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
