"""How many users one machine serves: what the KV cache holds, how fast a batch is, and Little's law between them.

    requests in the system  =  requests a second  x  seconds that each one stays             (Little, 1961)

It holds for any system that is stable, whatever the order of service. Read from right to left it gives the speed that a
number of users gets; from left to right, the memory that a rate of requests takes: every request in the system holds
its KV cache. So memory bounds the requests at once, the roofline bounds their speed, and the law gives the rest:

    at once     KV cache that fits / KV cache of one text of prompt + output tokens
    one request costs the card   prefill of its prompt  +  output x (a step of decoding / at once)
    requests a second  =  1 / that                     seconds of each  =  at once / requests a second
    users, who read and type for `think_s` after each answer  =  requests a second x (seconds + think_s)

All of it at best: no request waits, texts have one length, and the roofline is an upper bound. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from quantlab.errors import UsageError
from quantlab.plan.cost import usd_per_million
from quantlab.plan.gpus import GPUS, Gpu
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.memory import VLLM_UTILIZATION, Model, max_batch
from quantlab.plan.models import shape_of
from quantlab.plan.roofline import between, decode, prefill, whole
from quantlab.plan.support import why_not


def in_system(requests_per_s: float, seconds: float) -> float:
    """Little's law: how many requests are in the system, on average.

    >>> in_system(2.5, 8)  # 2.5 requests a second that stay 8 seconds each
    20.0
    """
    return between("requests_per_s", requests_per_s, 0, 1e9) * between("seconds", seconds, 0, 1e9)


@dataclass(frozen=True)
class Capacity:
    """What `gpus` cards with one copy of a model can do at best, all texts of one length."""

    gpu: Gpu
    gpus: int
    at_once: int
    prefill_s: float
    step_s: float
    output: int

    @property
    def card_seconds(self) -> float:
        """What one request costs the cards: its prompt, and its share of every step."""
        return self.prefill_s + self.output * self.step_s / self.at_once

    @property
    def requests_per_s(self) -> float:
        """Requests that are finished each second."""
        return 1 / self.card_seconds

    @property
    def seconds(self) -> float:
        """How long one request is in the system, by Little's law."""
        return self.at_once / self.requests_per_s

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens written each second, of all texts together."""
        return self.output * self.requests_per_s

    @property
    def tokens_per_s_each(self) -> float:
        """Tokens a second that one user sees."""
        return self.output_tokens_per_s / self.at_once

    @property
    def usd_per_million(self) -> float | None:
        """Dollars for a million written tokens, at the card's dated price; None where it has none."""
        price = self.gpu.price_per_hour
        return usd_per_million(price.usd * self.gpus, self.output_tokens_per_s) if price else None

    def users(self, think_s: float = 0) -> float:
        """People served, who each wait for an answer and then spend `think_s` seconds before the next request."""
        return in_system(self.requests_per_s, self.seconds + between("think_s", think_s, 0, 1e6))


def capacity(
    model: Model, fmt: str, gpu: Gpu | str, prompt: int, output: int, *,
    gpus: int = 1, kv_bits: float = 16, utilization: float = VLLM_UTILIZATION, efficiency: float = 1.0,
    at_once: int | None = None,
) -> Capacity:  # fmt: skip
    """What a card can do at best with prompts and outputs of these lengths; `at_once`: fewer than memory allows.

    >>> best = capacity("llama-3.1-8b", "bf16", "l4", prompt=1000, output=200)
    >>> best.at_once, round(best.seconds)
    (26, 16)
    """
    card = gpu_named(gpu) if isinstance(gpu, str) else gpu
    length = whole("prompt", prompt) + whole("output", output)
    most = max_batch(model, fmt, card, length, gpus=gpus, kv_bits=kv_bits, utilization=utilization)
    if most < 1:
        where = card.label if gpus == 1 else f"{gpus} x {card.label}"
        raise UsageError(
            f"{shape_of(model).name} in {fmt} leaves no room for a text of {length:,} tokens on {where}: "
            "take a smaller format or more memory"
        )
    batch = min(most, whole("at_once", at_once)) if at_once is not None else most
    mean = prompt + (output + 1) // 2  # a text grows while it is written
    step = decode(model, fmt, card, batch, mean, gpus=gpus, kv_bits=kv_bits, efficiency=efficiency)
    first = prefill(model, fmt, card, prompt, gpus=gpus, kv_bits=kv_bits, efficiency=efficiency)
    return Capacity(card, gpus, batch, first.seconds, step.seconds, output)


def choices(
    model: Model, fmt: str, prompt: int, output: int, *, cards: Iterable[Gpu] | None = None, kv_bits: float = 16,
    efficiency: float = 1.0,
) -> list[Capacity]:  # fmt: skip
    """Each card of the table that vLLM runs the format on and that holds the model and one such text.

    The cheapest for a million tokens comes first, cards without a price last.

    >>> [choice.gpu.name for choice in choices("llama-3-70b", "bf16", 1000, 200)]
    ['b200', 'mi300x']
    """
    fitting = []
    for card in GPUS.values() if cards is None else cards:
        fits = max_batch(model, fmt, card, prompt + output, kv_bits=kv_bits, utilization=VLLM_UTILIZATION) >= 1
        if fits and not why_not(fmt, card):
            fitting.append(capacity(model, fmt, card, prompt, output, kv_bits=kv_bits, efficiency=efficiency))
    return sorted(fitting, key=lambda found: found.usd_per_million or float("inf"))
