"""Checks of lesson 4 that are measured on the bundled model, now: what is left of quality (Q1, Q2, Q6, Q8).

"Quality" has no unit in the claims. Here it is 100 x perplexity before / perplexity after: 100 for the original model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

from quantlab.backends.llama_cpp_library import available
from quantlab.evaluate.names import LLAMA_CPP
from quantlab.evaluate.statistics import clustered_stderr
from quantlab.lesson.ledger.verdicts import Finding, Part
from quantlab.lesson.lesson3.contest import Entry, enter, enter_llama_cpp

HOW = "The story model on eight stories; quality is 100 x the original's perplexity / its own, one standard error"


def left(one: Entry) -> tuple[float, float]:
    """Quality that is left, in per cent of the original's, and its standard error."""
    rise, error = one.percent
    share = 100 / (1 + rise / 100)
    return share, error * share / (100 + rise)


def q1(entries: Mapping[str, Sequence[str]], says_percent: Mapping[str, float], sure: float) -> Finding:
    """Each width against its claimed figure."""
    parts, figures = [], []
    for name, (method, fmt) in entries.items():
        share, error = left(enter(method, fmt))
        says = f"{name} ({method}, {fmt}): {share:.1f} ± {error:.1f} ({says_percent[name]:g} claimed)"
        parts.append(Part(says, abs(share - says_percent[name]) <= sure * error + 0.5))
        figures.append(f"{name} {share:.1f} ± {error:.1f}")
    return Finding(
        tuple(parts), "; ".join(figures), f"{HOW}; a figure is right within {sure:g} of them and half a point"
    )


def q2(four: Sequence[str], twos: Sequence[Sequence[str]], says_percent: float, sure: float) -> Finding:
    """What the step from four bits to two costs, by several methods."""
    method, fmt = four
    before, _ = left(start := enter(method, fmt))
    parts, figures = [], []
    for method_2, fmt_2 in twos:
        if method_2 == LLAMA_CPP and available() is not None:
            continue  # a claim about methods is not open because one of them is missing here
        after, error = left(one := enter_llama_cpp(fmt_2) if method_2 == LLAMA_CPP else enter(method_2, fmt_2))
        lost = before - after
        says = f"{method_2} in {fmt_2}: {lost:.1f} ± {error:.1f} of 100 lost ({says_percent:g} claimed)"
        parts.append(Part(says, abs(lost - says_percent) <= sure * error + 0.5))
        figures.append(
            f"{method_2}: {lost:.1f} ± {error:.1f} lost for {start.bits_per_weight - one.bits_per_weight:.2f} bits"
        )
    return Finding(tuple(parts), "; ".join(figures), f"{HOW}; from {method} in {fmt}")


def q6(kbit_per_s: Sequence[float], entries: Mapping[str, Sequence[str]]) -> Finding:
    """What the picture gets right, and where it ends: the order, and the size of the steps."""
    bits = [16.0, *(enter(method, fmt).bits_per_weight for method, fmt in entries.values())]
    lost = [0.0, *(enter(method, fmt).quality.kl_mean for method, fmt in entries.values())]
    audio, weights = ([a / b for a, b in pairwise(steps)] for steps in (kbit_per_s, bits))
    names = ["bf16", *entries]
    parts = (
        Part(
            f"with each step down more is lost: KL divergence {', '.join(f'{kl:.3g}' for kl in lost)} nats a token",
            all(a < b for a, b in pairwise(lost)),
        ),
        Part(
            f"a step is as large as it sounds: {_times(audio)} times fewer bits in the audio, {_times(weights)} in the "
            f"weights ({', '.join(names)}; scales included)",
            all(abs(a / b - 1) < 0.1 for a, b in zip(audio, weights, strict=True)),
        ),
    )
    whole = kbit_per_s[0] / kbit_per_s[-1], bits[0] / bits[-1]
    figure = f"{whole[0]:.0f} times fewer bits in the audio, {whole[1]:.1f} in the weights"
    return Finding(parts, figure, "Bits as stored and KL divergence of the story model; a picture, not a measure")


def _times(steps: Sequence[float]) -> str:
    return ", ".join(f"{step:.1f}" for step in steps)


def q8(entries: Sequence[Sequence[str]], sure: float) -> Finding:
    """Does perplexity tell apart what KL divergence does? Pairs of ways to quantize, story by story."""
    found = [(f"{method} {fmt}", enter(method, fmt).quality) for method, fmt in entries]
    hidden: list[tuple[float, str]] = []
    apart = 0
    for (a, one), (b, other) in combinations(found, 2):
        kl, nll = (
            abs(float((x - y).mean())) / clustered_stderr(x - y, one.cluster)
            for x, y in ((one.kl, other.kl), (one.nll, other.nll))
        )
        apart += kl >= sure
        if kl >= sure and nll < 2:
            hidden.append(
                (kl, f"{a} and {b}, {kl:.0f} standard errors apart in KL divergence, {nll:.1f} in perplexity")
            )
    widest = max(hidden, default=(0.0, "no pair"))[1]
    return Finding(
        (Part(f"perplexity hides what KL divergence tells apart: {widest}", bool(hidden)),),
        f"{len(hidden)} of {apart} pairs that differ look alike in perplexity",
        f"The story model on eight stories, {len(found)} ways to quantize it, paired by story. That nothing replaces "
        "your own task is advice: `quantlab compare --text` and `--task` take yours",
    )
