"""Checks of lesson 3 computed from tables: who runs what (F4), on a laptop (F5), and what quantizing takes (F12).

Who runs what is quantlab/plan/support.py; sizes are quantlab/plan/memory.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantlab.errors import UsageError
from quantlab.lesson.ledger.verdicts import Finding, Part
from quantlab.plan.gpus import gpu
from quantlab.plan.memory import GB, memory
from quantlab.plan.models import shape_of
from quantlab.plan.support import GENERATIONS, SUPPORT, How, Support, support


def f4(rows: Sequence[Sequence[str | Sequence[str]]], only: Sequence[str]) -> Finding:
    """Each [format, places, engines] of the claim against the table; `only`: formats said to run nowhere else."""
    parts, beyond = [], []
    for fmt, places, engines in rows:
        found = [row for engine in engines if (row := support(str(engine), str(fmt))) is not None]
        absent = [engine for engine in engines if support(str(engine), str(fmt)) is None]
        parts += [Part(f"{engine} does not know {fmt}", False) for engine in absent]
        for row in found:
            missing = [place for place in places if not _runs(row, place)]
            where = "everywhere that is claimed" if not missing else f"not on {', '.join(missing)}"
            note = f" ({row.note})" if row.note else ""
            parts.append(Part(f"{row.engine} runs {fmt} {where}{note}", not missing))
        if fmt in only:
            others = {name: how for name in GENERATIONS if name not in places and (how := _best(found, name))}
            told = ", ".join(f"{how.value} on {name}" for name, how in others.items())
            parts.append(Part(f"{fmt} elsewhere: {told or 'nowhere'}", not others))
            beyond.append(f"{fmt} also {told}")
    right = sum(part.right for part in parts)
    figure = f"{right} of {len(parts)} statements agree with the table; {'; '.join(beyond) or 'nothing beyond it'}"
    sources = sorted({row.source for row in SUPPORT.values() if any(row.fmt == fmt for fmt, *_ in rows)})
    return Finding(tuple(parts), figure, f"Read in {'; '.join(sources)}")


def _runs(row: Support, place: str) -> bool:
    return row.on(GENERATIONS[place]) is not How.NO if place in GENERATIONS else place in row.elsewhere


def _best(rows: Sequence[Support], generation: str) -> How | None:
    ways = {row.on(GENERATIONS[generation]) for row in rows}
    return next((how for how in (How.NATIVE, How.WEIGHT_ONLY) if how in ways), None)


def f5(
    model: str, fmt: str, gptq_fmt: str, memory_gb: Sequence[float], share: float, context: int, place: str,
) -> Finding:  # fmt: skip
    """Whether the model fits a laptop's shared memory, and whether GPTQ files run there at all."""
    if not 0 < share <= 1:
        raise UsageError(f"share must be above 0 and at most 1, it is {share:g}")
    plan, other = (memory(model, name, context) for name in (fmt, gptq_fmt))
    parts = [
        Part(f"{size:g} GB of shared memory, {share:.0%} of it for the model: {plan.total_bytes / GB:.1f} GB "
             f"{'fit' if plan.total_bytes <= share * size * GB else 'do not fit'}",
             plan.total_bytes <= share * size * GB)
        for size in memory_gb
    ]  # fmt: skip
    runner = next((row for row in SUPPORT.values() if row.fmt == "GPTQ" and place in row.elsewhere), None)
    says = f"{runner.engine} runs GPTQ on {place} ({runner.source})" if runner else f"nothing runs GPTQ on {place}"
    parts.append(Part(says, runner is None))
    figure = (
        f"{fmt} {plan.total_bytes / GB:.1f} GB with {context:,} tokens of KV cache, {gptq_fmt} "
        f"{other.total_bytes / GB:.1f} GB; {says}"
    )
    return Finding(tuple(parts), figure, "Weights, KV cache and assumed overhead against a share of the memory")


def f12(
    rows: Sequence[Sequence[str]], samples: float, tokens: float, says_minutes: Sequence[float],
    published: Mapping[str, float], source: str,
) -> Finding:  # fmt: skip
    """Memory for quantizing with the whole model on the card, and block by block; minutes as published."""
    parts, figures = [], []
    for model, name in rows:
        card = gpu(str(name))
        whole, block = (working_bytes(str(model), int(samples), int(tokens), one) for one in (False, True))
        says = f"{model} whole on {card.label}: {whole / GB:.0f} GB"
        parts.append(Part(says, whole <= card.memory_bytes))
        fits = block > min(card.memory_bytes, gpu("rtx-4090").memory_bytes)
        parts.append(Part(f"{model} block by block: {block / GB:.1f} GB, so that a smaller card will do", fits))
        figures.append(f"{model} {whole / GB:.0f} GB whole, {block / GB:.1f} GB block by block")
    low, high = says_minutes
    for model, minutes in published.items():
        parts.append(Part(f"{model}: {minutes:g} minutes ({source})", low <= minutes <= high))
    figures.append(f"published: {', '.join(f'{model} {minutes:g} min' for model, minutes in published.items())}")
    method = (
        f"Weights in 16 bits, X'X of the widest inputs in float32, hidden states of {samples:g} x {tokens:g} tokens; "
        "lab 3 measures it"
    )
    return Finding(tuple(parts), "; ".join(figures), method)


def working_bytes(model: str, samples: int, tokens: int, one_block: bool) -> float:
    """What GPTQ keeps on the card: weights in 16 bits, H and its inverse, hidden states in and out in 16 bits.

    >>> working_bytes("llama-3-70b", 128, 2048, False) > 10 * working_bytes("llama-3-70b", 128, 2048, True)
    True
    """
    shape = shape_of(model)
    weights = 2 * (shape.linear_parameters / shape.layers if one_block else shape.parameters)
    inputs = 3 * shape.hidden**2 + shape.intermediate**2  # of q k v, of o, of gate and up, of down
    widest = shape.intermediate**2  # the inverse of one at a time
    hidden = 2 * 2 * samples * tokens * shape.hidden
    batch = 2 * tokens * (4 * shape.hidden + 3 * shape.intermediate)
    return float(weights + 4 * (inputs + 2 * widest) + hidden + batch)
