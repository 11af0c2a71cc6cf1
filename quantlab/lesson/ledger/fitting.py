"""Checks of lesson 1: what fits where (M1 to M7, M10, M11). Each takes the claim's inputs and computes its parts.

`utilization` is the share of a GPU that the engine may take (vLLM's default, 0.92), and a model "fits" when its
weights, the KV cache of one text of `context` tokens and the assumed overhead do. `memory_gb`, where a claim has it,
replaces the memory of the card: give it to see what a larger card would change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from quantlab.errors import UsageError
from quantlab.lesson.ledger.verdicts import Finding, Part, near
from quantlab.plan.gpus import GPUS, Gpu, gpu, instance
from quantlab.plan.memory import (
    GB,
    fits,
    free_bytes,
    max_tokens,
    memory,
    nominal_bytes,
    tokens_in,
    weights_bytes,
)
from quantlab.plan.models import shape_of


def gb(nbytes: float) -> str:
    """Bytes in GB (10^9), one decimal.

    >>> gb(141_107_412_992)
    '141.1 GB'
    """
    return f"{nbytes / GB:,.1f} GB"


@dataclass(frozen=True)
class Place:
    """A model in a format on so many cards, and what is left of them for the KV cache."""

    model: str
    fmt: str
    card: Gpu
    count: int
    context: int
    utilization: float

    @property
    def room(self) -> float:
        """Bytes that the engine may take."""
        return self.count * self.card.memory_bytes * self.utilization

    @property
    def fits(self) -> bool:
        """Whether the weights, one text of `context` tokens and the overhead fit."""
        return fits(memory(self.model, self.fmt, self.context, gpus=self.count), self.card, self.utilization)

    @property
    def tokens(self) -> int:
        """Tokens of KV cache that are left."""
        return max_tokens(self.model, self.fmt, self.card, gpus=self.count, utilization=self.utilization)

    @property
    def bits_that_fit(self) -> float:
        """Bits a weight in the layers that would fit, everything else in 16 bits; 0 when even none would."""
        plan, linear = memory(self.model, "bf16", self.context, gpus=self.count), shape_of(self.model).linear_parameters
        return max(0.0, 8 * (free_bytes(plan, self.card, self.utilization) + 2 * linear) / linear)

    def __str__(self) -> str:
        what = f"{self.model} in {self.fmt} ({gb(weights_bytes(self.model, self.fmt))})"
        where = f"{self.count} x {self.card.label} ({gb(self.room)} at {self.utilization:.0%})"
        if not self.fits:
            return f"{what} does not fit {where}"
        return f"{what} fits {where} with {self.tokens:,} tokens of KV cache left"


def _against(context: int) -> str:
    return f"Weights + KV cache of {context:,} tokens + assumed overhead against the share of the cards that is used"


def card_of(name: str, memory_gb: float | None) -> Gpu:
    """The card of this name, with another amount of memory if one is given."""
    card = gpu(name)
    return card if memory_gb is None else replace(card, memory_bytes=round(memory_gb * GB))


def m1(model: str, says_gb: Mapping[str, float], checkpoints: Mapping[str, str], tolerance: float) -> Finding:
    """70B parameters in 16, 8 and 4 bits, by multiplication and as real checkpoints."""
    parameters = shape_of(model).parameters
    parts = []
    for bits, claimed in says_gb.items():
        ours = nominal_bytes(parameters, float(bits))
        says = f"{parameters / 1e9:.2f} billion x {bits} bits = {gb(ours)} ({claimed:g} claimed)"
        parts.append(Part(says, near(ours / GB, claimed, tolerance)))
    for bits, fmt in checkpoints.items():
        real = weights_bytes(model, fmt)
        says = f"a real {fmt} checkpoint takes {gb(real)} ({says_gb[bits]:g} claimed)"
        parts.append(Part(says, near(real / GB, says_gb[bits], tolerance)))
    nominal = ", ".join(gb(nominal_bytes(parameters, float(bits))) for bits in says_gb)
    files = ", ".join(f"{fmt} {gb(weights_bytes(model, fmt))}" for fmt in checkpoints.values())
    method = "Parameters x bits / 8; a checkpoint also holds scales, and keeps embeddings and output head in 16 bits"
    return Finding(tuple(parts), f"{nominal} at exactly {', '.join(says_gb)} bits; as checkpoints: {files}", method)


def m2(model: str, gpu: str, says_gpus: Mapping[str, int], context: int, utilization: float) -> Finding:
    """The fewest cards for each format."""
    parts = []
    for fmt, count in says_gpus.items():
        place = Place(model, fmt, card_of(gpu, None), count, context, utilization)
        parts.append(Part(str(place), place.fits, essential=True))
        if count > 1:
            parts.append(Part(f"one card fewer: {(fewer := replace(place, count=count - 1))}", not fewer.fits))
    figure = "; ".join(part.says for part in parts if part.essential)
    return Finding(tuple(parts), figure, _against(context))


def m3(model: str, fmt: str, kv_bits: Sequence[float], context: int, says_gb: float, tolerance: float) -> Finding:
    """Whether a smaller KV cache brings the total down to the claimed figure."""
    plans = {bits: memory(model, fmt, context, kv_bits=bits, overhead_bytes=0) for bits in kv_bits}
    parts = [
        Part(f"weights + KV cache in {bits:g} bits = {gb(plan.total_bytes)} ({says_gb:g} claimed)",
             plan.total_bytes <= says_gb * GB * (1 + tolerance))
        for bits, plan in plans.items()
    ]  # fmt: skip
    bare = nominal_bytes(shape_of(model).parameters, 4)
    parts.append(Part(f"the weights alone at exactly 4 bits = {gb(bare)}", bare <= says_gb * GB, essential=True))
    saved = ", ".join(f"{gb(plan.kv_bytes)} in {bits:g} bits" for bits, plan in plans.items())
    figure = f"weights {gb(bare)} or more; what shrinks is the KV cache of {context:,} tokens: {saved}"
    return Finding(tuple(parts), figure, "Weights and KV cache counted apart, no overhead")


def m4(model: str, fmt: str, budget_usd: float, context: int, utilization: float) -> Finding:
    """Whether any consumer card up to the budget holds the model, and how few bits would."""
    cards = {card: card.list_price.usd for card in GPUS.values() if card.list_price}
    cards = {card: usd for card, usd in cards.items() if usd <= budget_usd}
    if not cards:
        raise UsageError(f"no card in the table costs {budget_usd:,.0f} dollars or less; give a larger budget_usd")
    places = [Place(model, fmt, card, 1, context, utilization) for card in cards]
    best = max(places, key=lambda place: place.room)
    part = Part(f"the largest card up to ${budget_usd:,.0f}: {best}", best.fits, essential=True)
    bits = ", ".join(f"{place.bits_that_fit:.1f} on the {place.card.label}" for place in places)
    pairs = [two for place in places if (two := replace(place, count=2)).fits]
    cheapest = min(pairs, key=lambda two: cards[two.card], default=None)
    second = "two such cards do not hold it either"
    if cheapest:
        second = f"{cheapest}, for ${2 * cards[cheapest.card]:,.0f} at launch"
    figure = f"{best}; bits a weight that would fit: {bits}; {second}"
    return Finding((part,), figure, "Every consumer card in the table whose list price is within the budget")


def m5(
    instance_name: str, says_gpu: str, says_count: int, says_usd: float, model: str, fmt: str, context: int,
    utilization: float, tolerance: float,
) -> Finding:  # fmt: skip
    """Which GPUs a rented machine has, at which price, and whether the model fits."""
    machine, said = instance(instance_name), gpu(says_gpu)
    real, price = gpu(machine.gpu), machine.price_per_hour
    place = Place(model, fmt, real, machine.count, context, utilization)
    other = replace(place, card=said)
    parts = (
        Part(f"{machine.name} has the {real.label}, {said.label} claimed", real.name == said.name, essential=True),
        Part(f"it has {machine.count} of them", machine.count == says_count),
        Part(f"${price.usd:g} an hour ({price.source}, {price.date})", near(price.usd, says_usd, tolerance)),
    )
    figure = f"{machine.count} x {real.label} at ${price.usd:g} an hour; {place}; {other}"
    return Finding(parts, figure, "AWS's instance table and dated list price")


def m6(
    model: str, fmt: str, gpu: str, memory_gb: float | None, wider: Sequence[str], usd_large: float, usd_small: float,
    says_ratio: float, context: int, utilization: float, tolerance: float,
) -> Finding:  # fmt: skip
    """Whether the cheap machine of a price comparison can run the model at all."""
    place = Place(model, fmt, card_of(gpu, memory_gb), 1, context, utilization)
    ratio = usd_large / usd_small
    rates = f"{usd_large:g} / {usd_small:g} = {ratio:.1f}"
    parts = (
        Part(str(place), place.fits, essential=True),
        *(Part(f"not in {fmt}: {(w := replace(place, fmt=fmt))}", not w.fits) for fmt in wider),
        Part(f"{rates} ({says_ratio:g} claimed)", near(ratio, says_ratio, tolerance)),
    )
    figure = f"{gb(weights_bytes(model, fmt))} of weights against {gb(place.room)}; {rates}"
    return Finding(parts, figure, _against(context))


def m7(
    model: str, fmt: str, usd_each: Mapping[str, Sequence[float]], says_usd: float, context: int, utilization: float,
) -> Finding:  # fmt: skip
    """What the cards for the unquantized model cost, at the assumed prices."""
    parts, costs, counts = [], [], []
    for name, prices in usd_each.items():
        count = fewest(model, fmt, gpu(name), context, utilization)
        counts.append(count)
        for usd in prices:
            costs.append(count * usd)
            says = f"{count} x {gpu(name).label} at ${usd:,.0f} = ${count * usd:,.0f}"
            parts.append(Part(says, count * usd >= says_usd))
    figure = (
        f"{min(counts)} cards or more; ${min(costs):,.0f} to ${max(costs):,.0f} at the assumed prices; "
        f"${says_usd:,.0f} is reached when a card costs ${says_usd / min(counts):,.0f}"
    )
    return Finding(tuple(parts), figure, "Fewest cards that fit x an assumed price for each (an input: change it)")


def fewest(model: str, fmt: str, card: Gpu, context: int, utilization: float, most: int = 64) -> int:
    """The smallest number of these cards that holds the model; more than `most` is an error."""
    for count in range(1, most + 1):
        if Place(model, fmt, card, count, context, utilization).fits:
            return count
    raise UsageError(f"{model} in {fmt} does not fit on {most} x {card.label}; take a smaller model or format")


def m10(fmt: str, rows: Sequence[Sequence[str | int]], context: int, utilization: float) -> Finding:
    """Each model on the cards that are claimed for it, with the tokens that are left."""
    places = [Place(str(m), fmt, gpu(str(card)), int(count), context, utilization) for m, card, count in rows]
    figure = "; ".join(f"{p.model} on {p.count} x {p.card.label}: {p.tokens:,} tokens left" for p in places)
    parts = tuple(Part(str(place), place.fits) for place in places)
    return Finding(parts, figure, _against(context))


def m11(model: str, fmt: str, gpu: str, memory_gb: float | None, context: int, utilization: float) -> Finding:
    """Whether the unquantized model fits on one card."""
    place = Place(model, fmt, card_of(gpu, memory_gb), 1, context, utilization)
    weights, room = weights_bytes(model, fmt), place.card.memory_bytes
    figure = f"{gb(weights)} of weights against {gb(room)} of memory"
    figure += f": {weights / room:.2f} times" if weights > room else f": {tokens_in(room - weights, model):,} tokens"
    return Finding((Part(str(place), place.fits, essential=True),), figure, _against(context))
