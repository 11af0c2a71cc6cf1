"""Questions the other way round: the longest context, the most texts, the smallest GPU, the best format, a way out.

A `Setup` is one complete question: which model, in which format, on what, for how much text. `need` answers it for one
GPU, and everything else here asks it again with one thing changed:

    max_context, max_concurrency    the largest that still fits
    best_format                     the most bits a weight that fit and that the card runs
    smallest                        GPUs of the table that hold it, the cheapest first
    splits                          2, 4, 8 GPUs: what each holds, and why some numbers do not go
    ways_out                        what to change when it does not fit, by what it costs an hour
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from quantlab.plan.engines import Engine, engine_for
from quantlab.plan.gguf_files import Stored
from quantlab.plan.gpus import GPUS, Gpu
from quantlab.plan.memory import kv_cache_bytes, weights_bytes
from quantlab.plan.shapes import ModelShape
from quantlab.plan.spellings import KV_BITS
from quantlab.plan.split import kv_on_one, weights_on_one, why_not_split
from quantlab.plan.support import why_not

FORMATS = ("bf16", "fp8_e4m3_channel", "int8", "nvfp4", "awq_int4_g128")  # that are offered on a GPU server
GGUF_FORMATS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")  # and with llama.cpp
COUNTS = (1, 2, 4, 8)
FP8_KV = (8, 9)  # compute capability from which vLLM's Triton backend has an FP8 KV cache (vLLM 0.33)
LEAST_CONTEXT = 512  # a shorter one is no way out


@dataclass(frozen=True)
class Setup:
    """A complete question.

    kv: a key of KV_BITS. utilization: the share of each GPU that the engine takes. stored: a file that is there, whose
    bytes count instead of the planned ones while the question is about its format.
    """

    shape: ModelShape
    fmt: str
    context: int
    concurrency: int = 1
    kv: str = "bf16"
    card: Gpu | None = None
    gpus: int = 1
    utilization: float | None = None
    stored: Stored | None = None

    @property
    def weights_bytes(self) -> int:
        """Of the whole model, once."""
        if self.stored is not None and self.stored.fmt == self.fmt:
            return self.stored.nbytes
        return weights_bytes(self.shape, self.fmt)

    @property
    def engine(self) -> Engine:
        """Who runs this format there."""
        return engine_for(self.fmt, self.card)

    @property
    def share(self) -> float:
        """The share of a GPU that the engine takes."""
        return self.engine.utilization if self.utilization is None else self.utilization

    @property
    def room(self) -> int | None:
        """Bytes of one GPU that the engine may fill; None without a GPU."""
        return None if self.card is None else math.floor(self.card.memory_bytes * self.share)

    @property
    def place(self) -> str:
        """The GPUs, as one says it: `A10`, `2 x RTX 3090`; '' without one."""
        if self.card is None:
            return ""
        return self.card.label if self.gpus == 1 else f"{self.gpus} x {self.card.label}"

    @property
    def usd_per_hour(self) -> float | None:
        """The price of all GPUs for an hour; None where it is not known."""
        price = self.card.price_per_hour if self.card else None
        return None if price is None else round(price.usd * self.gpus, 4)


@dataclass(frozen=True)
class Need:
    """Bytes on each GPU."""

    weights: int
    kv: int
    overhead: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.overhead


def need(setup: Setup) -> Need:
    """What each GPU of this setup must hold."""
    shape, gpus, engine, bits = setup.shape, setup.gpus, setup.engine, KV_BITS[setup.kv]
    if engine.by_layer:
        weights = math.ceil(setup.weights_bytes / gpus)
        kv = math.ceil(kv_cache_bytes(shape, setup.context, setup.concurrency, bits, engine.block) / gpus)
    else:
        weights = weights_on_one(shape, setup.fmt, gpus)
        kv = kv_on_one(shape, gpus, setup.context, setup.concurrency, bits, engine.block)
    return Need(weights, kv, engine.overhead(shape, gpus, setup.concurrency, setup.card))


def refusal(setup: Setup) -> str:
    """Why this setup cannot run at all, whatever its memory; '' where it can."""
    if setup.card is not None and (reason := why_not(setup.fmt, setup.card, setup.engine.name)):
        return reason
    if setup.gpus > 1 and not setup.engine.by_layer and (reason := why_not_split(setup.shape, setup.fmt, setup.gpus)):
        return f"{setup.shape.name} in {setup.fmt} does not go over {setup.gpus} GPUs: {reason}"
    return ""


def fits(setup: Setup) -> bool:
    """Whether it can run there and all of it fits."""
    return setup.room is not None and not refusal(setup) and need(setup).total <= setup.room


def max_context(setup: Setup) -> int:
    """The longest text for each of its `concurrency` that fits, in whole blocks; at most the model's own limit."""
    longest, block = setup.shape.context, setup.engine.block
    if fits(replace(setup, context=longest)):
        return longest
    return _most(lambda n: fits(replace(setup, context=n * block)), longest // block) * block


def max_concurrency(setup: Setup, most: int = 100_000) -> int:
    """How many texts of its `context` tokens fit at once, up to `most`."""
    return _most(lambda n: fits(replace(setup, concurrency=n)), most)


def _most(good: Callable[[int], bool], most: int) -> int:
    """The largest n from 0 to `most` for which `good` holds, where it holds for all smaller ones."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def best_format(setup: Setup, formats: tuple[str, ...] = FORMATS + GGUF_FORMATS) -> str | None:
    """Of `formats`, the one with most bits a weight that fits and that the card runs; None where none does.

    >>> from quantlab.plan.gpus import gpu
    >>> from quantlab.plan.models import shape_of
    >>> best_format(Setup(shape_of("llama-3.1-8b"), "bf16", 8192, card=gpu("t4")))
    'fp8_e4m3_channel'
    """
    by_bits = sorted(formats, key=lambda fmt: -weights_bytes(setup.shape, fmt))
    return next((fmt for fmt in by_bits if fits(replace(setup, fmt=fmt, kv=_kv_there(setup, fmt)))), None)


def _kv_there(setup: Setup, fmt: str) -> str:
    """The KV cache of this setup, or one as small that the other format's engine has."""
    llama_cpp = engine_for(fmt, setup.card).name == "llama.cpp"
    if llama_cpp == (setup.engine.name == "llama.cpp") or setup.kv in ("fp32", "bf16", "fp16"):
        return setup.kv
    return "q8_0" if llama_cpp else "fp8"


def smallest(setup: Setup, counts: tuple[int, ...] = COUNTS) -> list[Setup]:
    """For each card of the table the fewest GPUs that hold it, the cheapest setup first, unknown prices last."""
    found = []
    for card in GPUS.values():
        tried = (replace(setup, card=card, gpus=count) for count in counts)
        if (first := next((t for t in tried if fits(t)), None)) is not None:
            found.append(first)
    return sorted(found, key=_cost)


def _cost(setup: Setup) -> tuple[float, int]:
    usd, memory = setup.usd_per_hour, setup.card.memory_bytes if setup.card else 0
    return (math.inf if usd is None else usd, setup.gpus * memory)


def splits(setup: Setup, counts: tuple[int, ...] = COUNTS) -> dict[int, Need | str]:
    """Number of GPUs -> what each holds, or why that number does not go."""
    tried = {count: replace(setup, gpus=count) for count in counts}
    return {count: refusal(one) or need(one) for count, one in tried.items()}


@dataclass(frozen=True)
class Way:
    """One way out: what to change (`kind`: kv, context, concurrency, format, count, gpu), the setup then, in words."""

    kind: str
    setup: Setup
    says: str


def ways_out(setup: Setup, most: int = 3) -> list[Way]:
    """The cheapest setups that fit, each with one change; of equal price, the one that loses least comes first."""
    ways = sorted(_ways(setup), key=lambda way: _cost(way.setup)[0])  # a stable sort: _ways lists small losses first
    return ways[:most]


def _ways(setup: Setup) -> Iterator[Way]:
    if setup.card is not None:
        yield from _on_the_same(setup)
    for other in smallest(setup):
        if other.card is not setup.card:
            yield Way("gpu", other, other.place)
        elif other.gpus > setup.gpus:
            yield Way("count", other, f"{other.place} instead of {setup.gpus}")


def _on_the_same(setup: Setup) -> Iterator[Way]:
    """Changes that need no other machine."""
    if (kv := _smaller_kv(setup)) and fits(smaller := replace(setup, kv=kv)):
        yield Way("kv", smaller, f"a KV cache in {kv}, {KV_BITS[kv]:g} bits a number")
    ours, others = (GGUF_FORMATS, FORMATS) if setup.engine.name == "llama.cpp" else (FORMATS, GGUF_FORMATS)
    yield from _lighter(setup, ours)
    if (shorter := max_context(setup)) >= LEAST_CONTEXT:
        yield Way("context", replace(setup, context=shorter), f"at most {shorter:,} tokens for each text")
    if setup.concurrency > 1 and (fewer := max_concurrency(setup)) > 0:
        texts = f"at most {fewer:,} texts at once" if fewer > 1 else "one text at a time"
        yield Way("concurrency", replace(setup, concurrency=fewer), texts)
    yield from _lighter(setup, others)


def _lighter(setup: Setup, formats: tuple[str, ...]) -> Iterator[Way]:
    """The format with most bits, of those lighter than the setup's own, that fits."""
    most = weights_bytes(setup.shape, setup.fmt)
    lighter = tuple(fmt for fmt in formats if weights_bytes(setup.shape, fmt) < most)
    if (fmt := best_format(setup, lighter)) is not None:
        engine = engine_for(fmt, setup.card)
        other = f", run by {engine.name}" if engine != setup.engine else ""
        yield Way("format", replace(setup, fmt=fmt, kv=_kv_there(setup, fmt)), f"the weights in {fmt}{other}")


def _smaller_kv(setup: Setup) -> str | None:
    if KV_BITS[setup.kv] <= 8.5:
        return None
    if setup.engine.name == "llama.cpp":
        return "q8_0"
    card = setup.card
    return "fp8" if card and (card.compute_capability >= FP8_KV or card.maker == "AMD") else None
