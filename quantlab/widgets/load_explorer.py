"""Lesson 5's second explorer, the SLO game: how many requests a second before too many of them wait too long?"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from quantlab.lesson import gpu_run
from quantlab.plots.load_curve import Curve, load_picture, load_words
from quantlab.plots.theme import Picture
from quantlab.serve.batching import Policy, Request, simulate
from quantlab.serve.load.sweep import ENOUGH
from quantlab.widgets.explorer import Control, Explorer

RATES = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
SLOTS = (4, 16, 64)
FIRST_S, EACH_S = 0.25, 0.008  # the limits: to the first token, for each further one
REQUESTS, PROMPT, OUTPUT = 64, 128, 32


@dataclass(frozen=True)
class LoadResult:
    """A load curve, and the rate chosen on it."""

    curve: Curve
    slots: int
    fmt: str

    def words(self) -> str:
        """The picture in words."""
        return load_words(self.curve)

    def formula(self) -> str:
        """The step's cost, and what makes a request good."""
        return "\n".join(
            (
                gpu_run.step_cost(self.fmt).words,
                f"fitted to steps of vLLM, {gpu_run.provenance()}",
                f"{REQUESTS} requests of {PROMPT} + {OUTPUT} tokens, Poisson arrivals, {self.slots} slots, chunked",
                f"good: first token within {1e3 * FIRST_S:g} ms, the others within {1e3 * EACH_S:g} ms on average",
                f"a rate is kept when {ENOUGH:.0%} of the requests are good",
            )
        )


@lru_cache(maxsize=16)
def curve(fmt: str, slots: int) -> Curve:
    """The whole curve; each rate sees the same requests, nearer to each other."""
    dice = random.Random(0)
    gaps = [dice.expovariate(1.0) for _ in range(REQUESTS)]
    due = np.cumsum(gaps) - gaps[0]
    rows = [_at(fmt, slots, [float(t) / rate for t in due]) for rate in RATES]
    ttft, tpot, good = zip(*rows, strict=True)
    return Curve(f"{fmt}, {slots} slots", RATES, ttft, tpot, good, 0, (FIRST_S, EACH_S))


def _at(fmt: str, slots: int, due: list[float]) -> tuple[float, float, float]:
    asked = [Request(at, PROMPT, OUTPUT) for at in due]
    served = simulate(asked, gpu_run.step_cost(fmt), Policy("chunked", slots=slots)).served
    first = np.array([one.ttft for one in served])
    each = np.array([sum(one.gaps) / len(one.gaps) for one in served])
    good = float(((first <= FIRST_S) & (each <= EACH_S)).mean())
    return float(np.percentile(first, 95)), float(np.percentile(each, 95)), good


def result(rate: float, slots: int, fmt: str) -> LoadResult:
    """The pure function of the three controls."""
    return LoadResult(replace(curve(fmt, slots), at=RATES.index(rate)), slots, fmt)


def load_explorer(rate: float = 20.0, slots: int = 16, fmt: str = "bf16") -> Explorer[LoadResult]:
    """The explorer; the engine's steps were measured on a GPU, so that none is needed here."""
    controls = (
        Control("rate", "Requests a second", RATES, rate, lambda value: f"{value:g}", slider=True),
        Control("slots", "Slots", SLOTS, slots, str),
        Control("fmt", "Format", gpu_run.formats(), fmt),
    )
    return Explorer(controls, result, draw)


def draw(result: LoadResult, ghost: LoadResult | None) -> Picture:
    """The picture of this setting, with the curve before as a dashed line."""
    return load_picture(result.curve, ghost.curve if ghost else None)
