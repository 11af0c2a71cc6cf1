"""Checks of lesson 4 that arithmetic answers: published deltas (Q3) and the roofline (Q4, Q5); S1 and S14 of lesson 5.

A roofline is an upper bound, so a published speed is refuted only where no batch that memory holds can reach it; that
it stays below the bound does not prove it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from quantlab.lesson import gpu_run
from quantlab.lesson.ledger.verdicts import Finding, Part, near
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.memory import max_batch
from quantlab.plan.roofline import decode
from quantlab.plan.speed import crossover, implied_batch


def q3(
    perplexity: Sequence[float], says_percent: float, tasks: Mapping[str, Sequence[float]],
    questions: Mapping[str, float], sure: float,
) -> Finding:  # fmt: skip
    """The deltas, recomputed; and whether a task has questions enough to show its own."""
    before, after = perplexity
    rise = 100 * (after / before - 1)
    parts = [Part(f"perplexity {before:g} -> {after:g} is +{rise:.2f}% (+{says_percent:g}% claimed)",
                  abs(rise - says_percent) <= 0.05)]  # fmt: skip
    figures = [f"perplexity +{rise:.1f}%"]
    for task, (whole, left) in tasks.items():
        n, points = questions[task], whole - left
        error = 100 * math.sqrt(sum(share / 100 * (1 - share / 100) / n for share in (whole, left)))
        parts.append(Part(
            f"{task} {whole:g} -> {left:g}: {points:g} points of {whole:g} are {100 * points / whole:.1f}%, and on "
            f"{n:,.0f} questions {points:g} ± {error:.1f}", points > sure * error))  # fmt: skip
        figures.append(f"{task} -{100 * points / whole:.1f}%, {points:g} ± {error:.1f} points")
    method = (
        "Percentages of the published figures; a standard error from the number of questions, as if the two runs were "
        f"independent; a loss counts from {sure:g} of them"
    )
    return Finding(tuple(parts), "; ".join(figures), method)


def q4(
    model: str, gpu: str, fmts: Sequence[str], batches: Sequence[int], context: int, says_ratio: float, tolerance: float
) -> Finding:
    """How many times faster a step of decoding is, by batch."""
    large, small = fmts
    gains = {int(batch): _gain(model, gpu, large, small, int(batch), context) for batch in batches}
    first, last = gains[int(batches[0])], gains[int(batches[-1])]
    meeting = crossover(model, small, large, gpu)
    parts = (
        Part(f"at batch {batches[0]} the bound is {first:.2f} times higher ({says_ratio:g} claimed): "
             f"{meeting.ratio:.2f} times fewer bytes, for scales and the output head stay",
             near(first, says_ratio, tolerance)),
        Part(f"at batch {batches[-1]} it is {last:.2f} times", last < first),
    )  # fmt: skip
    figure = "; ".join(f"batch {batch}: {gain:.2f} times" for batch, gain in gains.items())
    if meeting.none_from is not None:
        figure += f"; nothing left from batch {meeting.none_from:.0f}"
    return Finding(parts, figure, _bound(model, gpu, context))


def q5(rows: Sequence[Sequence[str | int | float]], context: int) -> Finding:
    """Which batch each published speed takes at least, and how many texts memory holds there."""
    parts, figures = [], []
    for model, fmt, card, count, speed in ((str(m), str(f), str(c), int(n), float(s)) for m, f, c, n, s in rows):
        least = implied_batch(speed, model, fmt, card, context, gpus=count)
        most = max_batch(model, fmt, card, context, gpus=count)
        where = f"{model} in {fmt} on {count} x {gpu_named(card).label}"
        takes = "no batch reaches it" if least is None else f"it takes a batch of {least} or more"
        parts.append(Part(f"{where}: {speed:,.0f} tokens/s: {takes}, and {most} texts of {context:,} tokens fit",
                          least is not None and least <= most))  # fmt: skip
        figures.append(f"{where}: {takes}")
    return Finding(tuple(parts), "; ".join(figures), f"Roofline, an upper bound, at a context of {context:,} tokens")


def s14(model: str, gpu: str, fmts: Sequence[str], batch: int, context: int) -> Finding:
    """The gain at a large batch against that of one text."""
    large, small = fmts
    one, many = (_gain(model, gpu, large, small, n, context) for n in (1, batch))
    says = f"{small} against {large}: {one:.2f} times at batch 1, {many:.2f} times at batch {batch}"
    slow, fast = gpu_run.vllm("bf16"), gpu_run.vllm("int4_g128")
    first, last = (fast[at][1] / slow[at][1] for at in (1, max(slow)))
    met = f"measured: {first:.2f} times at batch 1, {last:.2f} times at batch {max(slow)}"
    method = f"{_bound(model, gpu, context)}; and, measured: {gpu_run.provenance()}, int4_g128 against bf16"
    return Finding((Part(says, many < one), Part(met, last < first)), f"{says}; {met}", method)


def s1(says_ratio: Sequence[float]) -> Finding:
    """What naive serving is decides the ratio: a recorded run on a GPU, the same model, prompts of the same length."""
    naive, server = gpu_run.generate(), gpu_run.vllm("bf16")
    most = max(server, key=lambda batch: server[batch][1])
    low, high = says_ratio
    parts = []
    for batch, name in ((1, "one request at a time"), (max(naive), f"static batches of {max(naive)}")):
        ratio = server[most][1] / naive[batch][1]
        says = f"against {name}: {server[most][1]:,.0f} / {naive[batch][1]:,.0f} tokens/s = {ratio:.3g} times"
        parts.append(Part(says, low <= ratio <= high))
    alone = server[1][1] / naive[1][1]
    parts.append(Part(f"for a single request: {alone:.1f} times", low <= alone <= high))
    figure = f"{server[most][1] / naive[1][1]:.0f} times one at a time, {server[most][1] / naive[max(naive)][1]:.1f} "
    figure += f"times static batches of {max(naive)}"
    method = f"vLLM with {most} requests at once against transformers' generate, bf16; {gpu_run.provenance()}"
    return Finding(tuple(parts), figure, method)


def _gain(model: str, gpu: str, large: str, small: str, batch: int, context: int) -> float:
    slow, fast = (decode(model, fmt, gpu, batch, context).seconds for fmt in (large, small))
    return slow / fast


def _bound(model: str, gpu: str, context: int) -> str:
    return f"Roofline of a step of decoding: {model}, {gpu_named(gpu).label}, texts of {context:,} tokens"
