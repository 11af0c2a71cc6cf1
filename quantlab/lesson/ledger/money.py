"""Checks of lesson 5 that arithmetic answers: what fits (S2, S5, S13), the cost (S3, S4, S6), how many users (S10).

The roofline in S10 is an upper bound; a load test may find less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quantlab.lesson.ledger.fitting import Place, card_of
from quantlab.lesson.ledger.verdicts import Finding, Part, near
from quantlab.plan.capacity import capacity
from quantlab.plan.cost import Day, cost_of_day, seconds_for, usd_per_million
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.memory import VLLM_UTILIZATION, gpus_that_fit, memory


def _place(model: str, fmt: str, card: str, count: int, context: int, memory_gb: float | None = None) -> Place:
    return Place(model, fmt, card_of(card, memory_gb), count, context, VLLM_UTILIZATION)


def s2(
    model: str, fmt: str, gpu: str, tokens_per_s: float, concurrent: int, says_ratio: float, context: int,
    memory_gb: float | None,
) -> Finding:  # fmt: skip
    """A multiplication, and whether the model that it is about fits the card."""
    place = _place(model, fmt, gpu, 1, context, memory_gb)
    ratio = tokens_per_s * concurrent / tokens_per_s
    parts = (
        Part(str(place), place.fits, essential=True),
        Part(f"{concurrent} x {tokens_per_s:g} = {tokens_per_s * concurrent:g} tokens/s, {ratio:g} times one request",
             near(ratio, says_ratio, 0.01)),
    )  # fmt: skip
    return Finding(parts, f"{place}; the ratio is the number of requests, {ratio:g}", "Memory, then the multiplication")


def s3(
    requests_a_day: int, says_usd: Sequence[float], gpu: str, output_tokens: int, tokens_per_s: float,
    concurrent: Sequence[int], tolerance: float,
) -> Finding:  # fmt: skip
    """A day's bill under assumptions that can be seen, and the assumptions that would give the claimed ones."""
    price = gpu_named(gpu).price_per_hour
    assert price is not None, f"{gpu} has no price an hour"
    one = Day(requests_a_day, output_tokens, tokens_per_s, int(concurrent[0]), price.usd, billed="busy")
    bills = [cost_of_day(replace(one, at_once=int(count))) for count in concurrent]
    parts, figures = [], []
    for bill, claimed in zip(bills, says_usd, strict=True):
        needed = seconds_for(claimed, requests_a_day, price.usd, bill.day.at_once)
        says = (
            f"{bill.day.at_once} at a time: ${bill.usd:,.0f} (${claimed:g} claimed, which takes requests of "
            f"{needed:,.0f} s and not of {bill.day.seconds_each:,.0f} s)"
        )
        parts.append(Part(says, near(bill.usd, claimed, tolerance)))
        figures.append(f"${bill.usd:,.0f} with {bill.day.at_once} at a time")
    ours, theirs = bills[0].usd / bills[1].usd, says_usd[0] / says_usd[1]
    parts.append(Part(f"the ratio is {ours:.1f} ({theirs:.0f} claimed)", near(ours, theirs, tolerance)))
    method = (
        f"{requests_a_day:,} requests of {output_tokens} tokens at {tokens_per_s:g} tokens/s each, paid while they "
        f"run, ${price.usd:g} an hour ({price.source}, {price.date})"
    )
    return Finding(tuple(parts), " and ".join(figures), method)


def s4(rows: Sequence[Sequence[float]]) -> Finding:
    """The formula on each row; a figure is right when it is ours to the third decimal."""
    ours = [(hour, speed, usd_per_million(hour, speed), claimed) for hour, speed, claimed in rows]
    parts = tuple(
        Part(f"${hour:g} and {speed:,.0f}: {usd:.3f} ({claimed:g} claimed)", abs(usd - claimed) <= 0.0005 + 1e-9)
        for hour, speed, usd, claimed in ours
    )
    figure = ", ".join(f"{usd:.3f}" for *_, usd, _ in ours)
    return Finding(parts, f"dollars a million tokens: {figure}", "($/h) / (tokens/s x 3600) x 10^6, never idle")


def s5(model: str, fmt: str, gpu: str, context: int, memory_gb: float | None) -> Finding:
    """Whether that row of a cost table can run at all."""
    place = _place(model, fmt, gpu, 1, context, memory_gb)
    return Finding((Part(str(place), place.fits, essential=True),), str(place), "Memory")


def s6(
    model: str, gpu: str, fmts: Sequence[str], cards: Sequence[int], usd_per_hour: Sequence[float],
    tokens_per_s: Sequence[float], says_ratio: float, context: int,
) -> Finding:  # fmt: skip
    """The ratio under the claimed throughputs, and whether both configurations run."""
    costs = [usd_per_million(hour, speed) for hour, speed in zip(usd_per_hour, tokens_per_s, strict=True)]
    ratio = costs[0] / costs[1]
    places = [_place(model, fmt, gpu, int(count), context) for fmt, count in zip(fmts, cards, strict=True)]
    says = f"${costs[0]:.3f} / ${costs[1]:.3f} a million = {ratio:.2f}, under the claimed {tokens_per_s[0]:,.0f} and "
    parts = (Part(f"{says}{tokens_per_s[1]:,.0f} tokens/s", near(ratio, says_ratio, 0.02)),
             *(Part(str(place), place.fits, essential=True) for place in places))  # fmt: skip
    return Finding(parts, f"{ratio:.2f} times cheaper", "Cost of a million tokens at the claimed throughputs; memory")


def s10(
    model: str, fmt: str, gpu: str, prompt: int, output: int, think_s: float, says_users: int,
    cards: Sequence[int],
) -> Finding:  # fmt: skip
    """Requests at once by memory, users by Little's law."""
    parts, figures = [], []
    for count in map(int, cards):
        best = capacity(model, fmt, gpu, prompt, output, gpus=count)
        where = f"{count} x {gpu_named(gpu).label}"
        people = best.users(think_s)
        parts.append(Part(f"{where}: {best.at_once} requests at once", best.at_once >= says_users))
        parts.append(Part(f"{where}: {people:,.0f} users who pause {think_s:g} s after each answer, "
                          f"{best.tokens_per_s_each:.0f} tokens/s each", people >= says_users))  # fmt: skip
        figures.append(f"{where}: {best.at_once} at once, {people:,.0f} users")
    method = f"{model} in {fmt}, {prompt:,} tokens in, {output} out: KV memory, the roofline (at best), Little's law"
    return Finding(tuple(parts), "; ".join(figures), method)


def s13(rows: Sequence[Sequence[str | int]], fmt: str, context: int) -> Finding:
    """Each row of the table, and the smallest card that would do."""
    parts, figures = [], []
    for model, card, count in ((str(m), str(c), int(n)) for m, c, n in rows):
        place = _place(model, fmt, card, count, context)
        plan = memory(model, fmt, context, gpus=count)
        fitting = [one.label for one in gpus_that_fit(plan, VLLM_UTILIZATION)]
        least = f"; the smallest that does is {count} x {fitting[0]}" if fitting else ""
        parts.append(Part(f"{place}{least}", place.fits))
        figures.append(f"{model}: {'fits' if place.fits else 'does not fit'} {count} x {place.card.label}")
    return Finding(tuple(parts), "; ".join(figures), f"{fmt}, one text of {context:,} tokens, 92% of the memory")
