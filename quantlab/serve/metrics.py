"""What vLLM counts about itself: its /metrics page, read.

    running, waiting    requests that are computed in this step, and that wait for room
    kv_use              share of the KV cache that is in use
    preemptions         how often a request lost its cache to others, and began anew
    prefix_queries      prompt tokens that were looked up in the prefix cache, and prefix_hits those that were there
    drafted, accepted   tokens that were guessed, and guesses that were right (speculative decoding)
    first_s, between_s  mean seconds to a first token, and between two tokens, as the server sees them

Counters grow from the server's start. To see what one load did, read before and after, and subtract: `after - before`.
Names: vllm/v1/metrics/loggers.py and vllm/v1/spec_decode/metrics.py, vLLM 0.32. llama.cpp's server has no such page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families

from quantlab.errors import QuantlabError

if TYPE_CHECKING:
    from quantlab.serve.server import Server

_NAMES = {  # ours -> vLLM's; counters carry _total, a histogram its _sum and _count
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_use": "vllm:kv_cache_usage_perc",
    "preemptions": "vllm:num_preemptions_total",
    "prefix_queries": "vllm:prefix_cache_queries_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    "drafted": "vllm:spec_decode_num_draft_tokens_total",
    "accepted": "vllm:spec_decode_num_accepted_tokens_total",
    "firsts": "vllm:time_to_first_token_seconds_count",
    "firsts_s": "vllm:time_to_first_token_seconds_sum",
    "betweens": "vllm:inter_token_latency_seconds_count",
    "betweens_s": "vllm:inter_token_latency_seconds_sum",
}
NOW = ("running", "waiting", "kv_use")  # what is so at this moment; all else counts from the start
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Metrics:
    """One reading, or the difference of two; see the module's docstring."""

    running: float = 0.0
    waiting: float = 0.0
    kv_use: float = 0.0
    preemptions: float = 0.0
    prefix_queries: float = 0.0
    prefix_hits: float = 0.0
    drafted: float = 0.0
    accepted: float = 0.0
    firsts: float = 0.0
    firsts_s: float = 0.0
    betweens: float = 0.0
    betweens_s: float = 0.0

    def __sub__(self, before: Metrics) -> Metrics:
        """What happened since; what is so at the moment stays as it is."""
        return Metrics(
            **{
                one.name: getattr(self, one.name) - (0.0 if one.name in NOW else getattr(before, one.name))
                for one in fields(self)
            }
        )

    @property
    def first_s(self) -> float | None:
        """Mean seconds to a first token."""
        return self.firsts_s / self.firsts if self.firsts else None

    @property
    def between_s(self) -> float | None:
        """Mean seconds between two tokens."""
        return self.betweens_s / self.betweens if self.betweens else None

    def lines(self) -> Mapping[str, str]:
        """What a reader wants to know, in words; what did not happen is left out."""
        found = {"requests": f"{self.running:.0f} running, {self.waiting:.0f} waiting",
                 "KV cache in use": f"{self.kv_use:.1%}"}  # fmt: skip
        if self.first_s is not None:
            found["first token"] = f"{1000 * self.first_s:,.0f} ms on average, of {self.firsts:,.0f}"
        if self.between_s is not None:
            found["between tokens"] = f"{1000 * self.between_s:,.1f} ms on average"
        if self.prefix_queries:
            share = self.prefix_hits / self.prefix_queries
            found["prompt tokens from the prefix cache"] = f"{share:.0%} of {self.prefix_queries:,.0f}"
        if self.drafted:
            found["guesses kept"] = f"{self.accepted / self.drafted:.0%} of {self.drafted:,.0f}"
        if self.preemptions:
            found["preemptions"] = f"{self.preemptions:,.0f}"
        return found

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.lines().items())


def parse(text: str) -> Metrics:
    """The figures of a page, summed over engines and labels; what it lacks is 0.

    >>> parse('vllm:num_requests_running{engine="0"} 3.0').running
    3.0
    """
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return Metrics(**{ours: sums.get(theirs, 0.0) for ours, theirs in _NAMES.items()})


def metrics(server: Server) -> Metrics | None:
    """What a running server counts; None where its engine has no such page (llama.cpp).

    Raises QuantlabError where the server does not answer.
    """
    if server.engine.name != "vllm":
        return None
    page = f"{server.url.removesuffix('/v1')}/metrics"
    try:
        answer = httpx.get(page, headers={"Authorization": f"Bearer {server.key}"}, timeout=TIMEOUT_S)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise QuantlabError(f"{page} does not answer ({type(error).__name__}); is the server still running?") from error
    return parse(answer.text)
