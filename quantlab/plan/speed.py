"""Questions to the roofline: from which batch do 4 bits stop paying, and what does a published speed imply?

Weight-only 4 bits read a quarter of the bytes and do the same arithmetic in 16 bits. Beside 16-bit weights they are
faster until the 16-bit matrices too wait for arithmetic; beside FP8, whose arithmetic is twice as fast, they become
*slower* at half that batch. Marlin's README (github.com/IST-DASLab/marlin) gives the ratio at small batches as 3.87:
16 / 4.125 bits, the eighth of a bit being its scales. A whole model gains less: its output head stays in 16 bits.

A published "tokens/s" without a batch says little: `implied_batch` gives the batch that it takes at least. And measured
speeds of one model in several sizes (`fit`) tell the bandwidth that was reached, and the time that no format saves.
Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantlab.errors import UsageError
from quantlab.plan.gpus import Gpu
from quantlab.plan.memory import Model
from quantlab.plan.models import shape_of
from quantlab.plan.roofline import between, decode, decode_work, roof


@dataclass(frozen=True)
class Crossover:
    """From which batch on a smaller format loses what it gains.

    `full_until`: up to this batch the matrices gain the whole ratio of bytes, `ratio`. `none_from`: from this batch on
    the larger format is as fast or faster (None: it never is).
    """

    full_until: float
    none_from: float | None
    ratio: float


def crossover(model: Model, small: str, large: str, gpu: Gpu | str, gpus: int = 1) -> Crossover:
    """The batch at which the matrices in format `small` stop being faster than in `large`, solved exactly.

    Both times are flat (bytes) up to a batch and rise (operations) from there. `small` starts lower, rises sooner, and
    meets `large` where its rise reaches the other's flat: at large's bytes x small's rate / bandwidth / operations.
    The context has no say: attention takes the same time beside either. Not for mixtures of experts, whose bytes grow
    with the batch.

    >>> meeting = crossover("llama-3.1-8b", "gptq_int4_g128", "bf16", "a100-80")
    >>> round(meeting.full_until), round(meeting.none_from)
    (48, 153)
    """
    shape = shape_of(model)
    if shape.experts is not None:
        raise UsageError(f"{shape.name} is a mixture of experts: compare `decode` at each batch instead")
    (flat, rise), (flat_large, rise_large) = (_lines(model, fmt, gpu, gpus) for fmt in (small, large))
    if flat >= flat_large:
        raise UsageError(f"{small} does not read fewer bytes than {large}: name the smaller format first")
    meets = rise >= rise_large  # else `large` rises sooner still, and is never as fast
    return Crossover(flat / rise, flat_large / rise if meets else None, flat_large / flat)


def _lines(model: Model, fmt: str, gpu: Gpu | str, gpus: int) -> tuple[float, float]:
    """Seconds to read the weights, and to multiply them for one token."""
    step = decode(model, fmt, gpu, 1, 1, gpus=gpus)
    return step.read_weights_s, step.multiply_s


def implied_batch(
    tokens_per_s: float, model: Model, fmt: str, gpu: Gpu | str, context: int = 1024, *,
    gpus: int = 1, kv_bits: float = 16, efficiency: float = 1.0,
) -> int | None:  # fmt: skip
    """The smallest batch whose bound reaches so many tokens a second; None where no batch does.

    >>> implied_batch(1200, "llama-3-70b", "bf16", "a100-80", gpus=2)
    46
    """
    wanted = between("tokens_per_s", tokens_per_s, 1e-9, 1e12)
    ceiling = roof(gpu, fmt, gpus, efficiency)
    one = ceiling.step(decode_work(model, fmt, 1, context, kv_bits))
    attention = max(one.read_kv_s, one.attend_s)
    if wanted * (one.multiply_s + attention) > 1:
        return None
    everything = ceiling.step(decode_work(model, fmt, 10**6, context, kv_bits)).read_weights_s

    def reached(batch: int) -> bool:
        step = ceiling.step(decode_work(model, fmt, batch, context, kv_bits))
        return step.tokens_per_s >= wanted * (1 - 1e-12)

    batch = max(1, math.floor(wanted * everything / max(1 - wanted * attention, 1e-12)))
    while batch > 1 and reached(batch - 1):  # a mixture of experts reads less at small batches
        batch -= 1
    while not reached(batch):
        batch += 1
    return batch


@dataclass(frozen=True)
class Fit:
    """time of a token = overhead + bytes / bandwidth, by least squares over measured points."""

    overhead_s: float
    bandwidth: float  # bytes a second

    def tokens_per_s(self, nbytes: float) -> float:
        """The speed at batch 1 of a file of so many bytes, by this line."""
        return 1 / (self.overhead_s + nbytes / self.bandwidth)


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """The line through measured (bytes of the file, tokens a second at batch 1) of one model in several formats.

    >>> line = fit([(16e9, 50), (8e9, 90)])
    >>> round(line.overhead_s * 1000, 1), round(line.bandwidth / 1e9)  # 2 ms of each token no format saves
    (2.2, 900)
    """
    if len({nbytes for nbytes, _ in points}) < 2:
        raise UsageError("a line needs measured speeds of at least two different sizes")
    pairs = [(float(nbytes), 1 / between("tokens_per_s", speed, 1e-9, 1e12)) for nbytes, speed in points]
    mean_b, mean_s = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    slope = sum((b - mean_b) * (s - mean_s) for b, s in pairs) / sum((b - mean_b) ** 2 for b, _ in pairs)
    if slope <= 0:
        raise UsageError("the larger files are not slower: these points are not bound by reading weights")
    return Fit(mean_s - slope * mean_b, 1 / slope)
