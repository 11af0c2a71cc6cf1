"""The check of Q7: who notices a loss of 2%, and why work in many steps suffers more.

The bundled model cannot reckon, so reasoning itself is cited. What it rests on is measured: an answer of many words is
right only where word after word is, and one that falls to the other side changes all that follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from quantlab.evaluate.logits import TorchLogits
from quantlab.evaluate.task import mcnemar, read_choices, score_choices
from quantlab.formats.catalog import get
from quantlab.lesson.ledger.verdicts import Finding, Part
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.lesson3.contest import enter
from quantlab.lesson.lesson4.own_prompts import told_twice
from quantlab.models.samples import openings

ITEMS = 40  # of the sixty endings: what a lesson has time for


def q7(
    fmt: str, says_percent: float, answers: int, tokens: int, sure: float, mathematics: Mapping[str, Any]
) -> Finding:
    """Perplexity, a task of single choices, answers of many words, and what was published on mathematics."""
    entry = enter("rtn", fmt)
    rise, error = entry.percent
    changed, items, p = _endings(fmt)
    told = told_twice(fmt, tuple(openings()[:answers]), tokens)
    same, word = sum(pair.same for pair in told) / len(told), entry.quality.top1_agreement
    spread = (word * (1 - word) / len(told)) ** 0.5  # of a share of so many answers, were each as sure as one word
    average, most = float(mathematics["average_percent"]), float(mathematics["most_percent"])
    parts = (
        Part(
            f"in {fmt} perplexity changes by {rise:.2f} ± {error:.2f}%, and a task of {items} single choices cannot "
            f"tell: {changed} answers differ, p = {p:.2f}",
            abs(rise) < says_percent and p >= 0.05,
        ),
        Part(
            f"the next word is the same in {word:.1%} of the cases, an answer of {tokens} words in {same:.0%} of "
            f"{len(told)}",
            same < word - sure * spread,
        ),
        Part(
            f"on mathematics {mathematics['models']} lost {average:g}% on average and up to {most:g}% "
            f"({mathematics['source']})",
            average > says_percent,
        ),
    )
    figure = f"{fmt}: {word:.1%} of the next words, {same:.0%} of the answers of {tokens} words stay the same"
    return Finding(parts, figure, "The story model, which does not reckon; what is said of mathematics is cited")


@lru_cache(maxsize=4)
def _endings(fmt: str) -> tuple[int, int, float]:
    """How many answers to the story endings differ from the original's, of how many, and how often chance does that."""
    model, grid = story_model(), get(fmt)
    choices = read_choices(model.loaded.tokenizer, model.loaded.config.max_position_embeddings)[:ITEMS]
    weights = {f"{name}.weight": grid.quantize(W).dequantize() for name, W in model.layers.items()}
    before = score_choices(TorchLogits(model.loaded.model), choices).acc_norm
    after = score_choices(TorchLogits(model.loaded.model, weights), choices).acc_norm
    return int((before != after).sum()), len(choices), mcnemar(before, after)
