"""One question, one answer: will it fit, what would, and what are the ways out? What `quantlab plan` prints.

>>> answer = plan("llama-3.3-70b", "a10", "awq-int4", context=4096)
>>> answer.fits, len(answer.alternatives())
(False, 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quantlab.errors import UsageError
from quantlab.plan.gguf_files import Stored
from quantlab.plan.gpus import Gpu
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.inverse import (
    FORMATS,
    GGUF_FORMATS,
    Need,
    Setup,
    Way,
    best_format,
    max_concurrency,
    max_context,
    need,
    refusal,
    smallest,
    ways_out,
)
from quantlab.plan.memory import GIB, Model, kv_bytes_per_token, weights_by_kind, weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.spellings import KV_BITS, check_kv, format_called, kv_called

KEYS = (  # of the JSON; others may come after them
    "weights_bytes", "kv_bytes_per_token", "kv_bytes", "overhead_bytes", "total_bytes", "gpu_bytes", "fits",
    "max_context", "max_concurrency", "alternatives",
)  # fmt: skip


def plan(
    model: Model,
    gpu: Gpu | str | None = None,
    fmt: str = "bf16",
    context: int | None = None,
    concurrency: int = 1,
    *,
    kv_dtype: str = "auto",
    gpus: int = 1,
    utilization: float | None = None,
    stored: Stored | None = None,
) -> Plan:
    """The plan for `concurrency` texts of `context` tokens each (default: 4096, or what the model was made for).

    `fmt` and `kv_dtype` may be spelled as people do (`awq-int4`, `fp8`, `q4_k_m`; `auto`, `q8_0`). Without a GPU the
    plan says what is needed and what holds it. `stored` is a file that is there (quantlab.plan.gguf_files). Raises
    UsageError for unknown names (with the nearest), for numbers out of range, and for a format that the GPU does not
    run (with what it does run).
    """
    shape = shape_of(model)
    card = gpu_named(gpu) if isinstance(gpu, str) else gpu
    setup = Setup(
        shape=shape,
        fmt=format_called(fmt),
        context=_whole("context", min(4096, shape.context) if context is None else context, 10**8),
        concurrency=_whole("concurrency", concurrency, 10**6),
        kv=kv_called(kv_dtype),
        card=card,
        gpus=_whole("gpus", gpus, 1024),
        utilization=utilization,
        stored=stored,
    )
    if utilization is not None and not 0.01 <= utilization <= 1:
        raise UsageError(f"utilization is the share of a GPU that the engine takes, 0.01 to 1, not {utilization:g}")
    check_kv(setup.kv, setup.engine.name)
    if reason := refusal(setup):
        raise UsageError(reason)
    return Plan(setup)


def _whole(what: str, value: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(f"{what} must be a whole number from 1 to {most:,}, it is {value!r}")
    return value


@dataclass(frozen=True)
class Plan:
    """The answer. Bytes are over all GPUs together, with what several of them hold in copies."""

    setup: Setup

    @cached_property
    def each(self) -> Need:
        """What each GPU must hold."""
        return need(self.setup)

    @property
    def weights_bytes(self) -> int:
        """Weights on all GPUs."""
        return self.each.weights * self.setup.gpus

    @property
    def kv_bytes(self) -> int:
        """KV cache on all GPUs."""
        return self.each.kv * self.setup.gpus

    @property
    def overhead_bytes(self) -> int:
        """What the engine takes beside them, on all GPUs: an assumption, see quantlab.plan.engines."""
        return self.each.overhead * self.setup.gpus

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.each.total * self.setup.gpus

    @property
    def gpu_bytes(self) -> int | None:
        """What the engine may fill on all GPUs; None without a GPU."""
        return None if self.setup.room is None else self.setup.room * self.setup.gpus

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None without a GPU."""
        return None if self.setup.room is None else self.each.total <= self.setup.room

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each parameter of the whole model."""
        return 8 * self.setup.weights_bytes / self.setup.shape.parameters

    @cached_property
    def max_context(self) -> int | None:
        """The longest text for each of its `concurrency`; 0 where nothing fits, None without a GPU."""
        return None if self.setup.card is None else max_context(self.setup)

    @cached_property
    def max_concurrency(self) -> int | None:
        """How many texts of its `context` fit at once; None without a GPU."""
        return None if self.setup.card is None else max_concurrency(self.setup)

    @cached_property
    def ways(self) -> list[Way]:
        """Where it does not fit: the three cheapest ways out. Without a GPU: the three cheapest that hold it."""
        return [] if self.fits else ways_out(self.setup)

    @cached_property
    def better_format(self) -> str | None:
        """Where it fits: a format with more bits a weight that would fit as well."""
        if not self.fits:
            return None
        others = GGUF_FORMATS if self.setup.engine.name == "llama.cpp" else FORMATS
        best = best_format(self.setup, others)
        enough = best is None or weights_bytes(self.setup.shape, best) <= weights_bytes(
            self.setup.shape, self.setup.fmt
        )
        return None if enough else best

    def same_card(self) -> Setup | None:
        """The fewest GPUs of the kind asked for that would hold it."""
        found = smallest(self.setup)
        return next((one for one in found if self.setup.card and one.card == self.setup.card), None)

    def weights_by_kind(self) -> dict[str, int]:
        """Bytes of the checkpoint for each kind of tensor."""
        return weights_by_kind(self.setup.shape, self.setup.fmt)

    def alternatives(self) -> list[dict[str, Any]]:
        """The ways out, as data."""
        return [_way(way) for way in self.ways]

    def to_dict(self) -> dict[str, Any]:
        """KEYS first, then what was asked and what else is known."""
        setup, shape = self.setup, self.setup.shape
        return {
            "weights_bytes": self.weights_bytes,
            "kv_bytes_per_token": kv_bytes_per_token(shape, KV_BITS[setup.kv]),
            "kv_bytes": self.kv_bytes,
            "overhead_bytes": self.overhead_bytes,
            "total_bytes": self.total_bytes,
            "gpu_bytes": self.gpu_bytes,
            "fits": self.fits,
            "max_context": self.max_context,
            "max_concurrency": self.max_concurrency,
            "alternatives": self.alternatives(),
            **_asked(setup),
            "engine": setup.engine.name,
            "utilization": setup.share,
            "parameters": shape.parameters,
            "active_parameters": shape.active_parameters,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "checkpoint_bytes": setup.weights_bytes,
            "weights_bytes_by_kind": self.weights_by_kind(),
            "bytes_on_each_gpu": self.each.total,
            "model_context": shape.context,
            "source": shape.source,
        }

    def notes(self) -> list[str]:
        """What a reader must know of these figures, one sentence each."""
        setup, shape = self.setup, self.setup.shape
        said = [
            f"overhead is an assumption ({setup.engine.name}: {setup.engine.source}); docs/planning.md has its error"
        ]
        if setup.stored is not None and setup.stored.fmt == setup.fmt:
            planned = weights_bytes(shape, setup.fmt)
            said.append(
                f"weights are the file's tensors, {setup.stored.nbytes:,} bytes; the planner reckons "
                f"{setup.stored.nbytes / planned - 1:+.2%} of {planned:,}, and its parts above are those"
            )
        if setup.context > shape.context:
            said.append(f"{shape.name} was made for texts of at most {shape.context:,} tokens")
        if shape.window is not None:
            said.append(
                f"{shape.windowed_layers} of {shape.layers} layers keep the last {shape.window:,} tokens of a text only"
            )
        if shape.experts is not None:
            said.append(
                f"a mixture of experts: all {shape.parameters / 1e9:.1f} billion weights must be in memory, "
                f"{shape.active_parameters / 1e9:.1f} billion are used for a token"
            )
        if shape.vision:
            said.append(f"{shape.vision / 1e6:,.0f} million weights are a vision tower, kept in 16 bits")
        if setup.card and setup.card.unverified:
            said.append(f"of {setup.card.label}, found in one place only: {', '.join(setup.card.unverified)}")
        return said


def _asked(setup: Setup) -> dict[str, Any]:
    return {
        "model": setup.shape.name,
        "gpu": setup.card.name if setup.card else None,
        "gpus": setup.gpus,
        "format": setup.fmt,
        "context": setup.context,
        "concurrency": setup.concurrency,
        "kv_dtype": setup.kv,
        "usd_per_hour": setup.usd_per_hour,
    }


def _way(way: Way) -> dict[str, Any]:
    setup, each = way.setup, need(way.setup)
    price = setup.card.price_per_hour if setup.card else None
    return {
        "change": way.kind,
        "says": way.says,
        **_asked(setup),
        "price_source": f"{price.source}, {price.date}" if price else None,
        "total_bytes": each.total * setup.gpus,
        "gpu_bytes": (setup.room or 0) * setup.gpus,
        "max_context": max_context(setup),
    }


def verdict(answer: Plan) -> str:
    """One sentence: whether it fits, and by how much.

    >>> verdict(plan("llama-3.1-8b", "a10", "bf16", 8192))
    'It fits: 17.16 GiB of the 20.22 GiB that vLLM may fill of A10; 3.06 GiB left.'
    """
    setup = answer.setup
    if setup.card is None or answer.gpu_bytes is None:
        return f"{_gib(answer.total_bytes)} are needed."
    room = f"{_gib(answer.gpu_bytes)} that {setup.engine.name} may fill of {setup.place}"
    if answer.fits:
        return f"It fits: {_gib(answer.total_bytes)} of the {room}; {_gib(answer.gpu_bytes - answer.total_bytes)} left."
    short = answer.total_bytes - answer.gpu_bytes
    return f"It does not fit: {_gib(answer.total_bytes)} are needed, {_gib(short)} more than the {room}."


def way_sentence(way: Way) -> str:
    """A way out with its figures."""
    setup, each = way.setup, need(way.setup)
    usd = "price not known" if setup.usd_per_hour is None else f"${setup.usd_per_hour:,.2f} an hour"
    room = _gib((setup.room or 0) * setup.gpus)
    return f"{way.says}: {_gib(each.total * setup.gpus)} of {room}, {usd}"


def _gib(nbytes: float) -> str:
    return f"{nbytes / GIB:,.2f} GiB"
