"""Which format first? For a model, a card and so many texts at once: what fits, how it runs, and its bound of speed.

    decide("llama-3.1-8b", "rtx-4090", concurrency=1).take    ->  "nvfp4": one text waits for the weights to be read
    decide("llama-3.1-8b", "b200", concurrency=64).take       ->  "fp8_e4m3_channel": many texts wait for other things

The rule: among the formats that fit, those whose bound of decoding speed is within a tenth of the highest; of these the
one with the most bits, since it loses least. It knows bytes and rooflines, not quality on your task: what it names is
what to measure first. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.inverse import FORMATS, Setup, fits, need, refusal
from quantlab.plan.memory import Model, weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.roofline import decode, whole
from quantlab.plan.support import How, family, how_on

NEARLY = 0.9  # of the highest bound: closer than a roofline can tell
_CANDIDATES = (*FORMATS, "q4_k_m")


@dataclass(frozen=True)
class Option:
    """A format on this card: bytes of a GPU that it takes, how it runs, tokens a second at best; why not, if so."""

    fmt: str
    nbytes: int
    how: str
    tokens_per_s: float | None
    why_not: str = ""


@dataclass(frozen=True)
class Decision:
    """All options, the fastest first, and the one to measure first with the reason; take is None where nothing fits."""

    options: tuple[Option, ...]
    take: str | None
    why: str


def decide(
    model: Model, gpu: str, context: int = 4096, concurrency: int = 1, formats: tuple[str, ...] = _CANDIDATES
) -> Decision:
    """Weigh formats for one card; raises UsageError for an unknown model, card or format.

    >>> decide("llama-3.1-8b", "rtx-4090").take, decide("llama-3.1-8b", "b200", concurrency=64).take
    ('nvfp4', 'fp8_e4m3_channel')
    """
    card, shape = gpu_named(gpu), shape_of(model)
    asked = Setup(shape, formats[0], whole("context", context), whole("concurrency", concurrency), card=card)
    options = [_option(replace(asked, fmt=fmt)) for fmt in formats]
    ranked = sorted(options, key=lambda option: -(option.tokens_per_s or 0))
    running = [option for option in ranked if option.tokens_per_s is not None]
    if not running:
        return Decision(tuple(ranked), None, f"Nothing fits on one {card.label}: `quantlab plan` lists the ways out.")
    fastest = running[0]
    near = [option for option in running if (option.tokens_per_s or 0) >= NEARLY * (fastest.tokens_per_s or 0)]
    take = max(near, key=lambda option: weights_bytes(shape, option.fmt))
    why = f"{take.fmt}: at most {take.tokens_per_s:,.0f} tokens a second in {take.nbytes / 2**30:.1f} GiB"
    if take is not fastest:
        why += f"; {fastest.fmt} is hardly faster ({fastest.tokens_per_s:,.0f}), and has fewer bits"
    return Decision(tuple(ranked), take.fmt, f"{why}. Measure it on your task.")


def _option(setup: Setup) -> Option:
    assert setup.card is not None
    name, total = family(setup.fmt), need(setup).total
    runs = how_on(setup.engine.name, name, setup.card) if name else How.NATIVE
    if reason := refusal(setup):
        return Option(setup.fmt, total, How.NO.value, None, reason)
    if not fits(setup):
        over = (total - (setup.room or 0)) / 2**30
        return Option(setup.fmt, total, runs.value, None, f"{over:.1f} GiB too much")
    step = decode(setup.shape, setup.fmt, setup.card, setup.concurrency, setup.context)
    return Option(setup.fmt, total, runs.value, step.tokens_per_s)
