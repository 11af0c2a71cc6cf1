"""Lesson 5's first explorer: who computes in which slot, when, under three ways to form batches."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from quantlab.lesson import gpu_run
from quantlab.plots.theme import Picture
from quantlab.plots.timeline import timeline, timeline_words
from quantlab.serve.batching import Policy, Request, Result, simulate
from quantlab.serve.batching.policy import KINDS
from quantlab.widgets.explorer import Control, Explorer

SLOTS, REQUESTS, PROMPT = 6, 18, 128
ROOMS: Mapping[str, int | None] = {"plenty": None, "tight": 900}  # tokens that the KV cache holds
LENGTHS: Mapping[str, tuple[int, int]] = {"all alike": (64, 64), "mixed": (16, 112), "one long": (16, 32)}


@dataclass(frozen=True)
class BatchingResult:
    """A way to form batches, and what became of the requests."""

    kind: str
    lengths: str
    room: str
    found: Result

    @property
    def name(self) -> str:
        """The setting in words."""
        return f"{self.kind}, answers {self.lengths}, cache {self.room}"

    def words(self) -> str:
        """The picture in words."""
        return timeline_words({self.name: self.found}, SLOTS)

    def formula(self) -> str:
        """The step's cost and what the slots did."""
        kv = ROOMS[self.room]
        waits = sorted(1e3 * one.ttft for one in self.found.served)
        return "\n".join(
            (
                gpu_run.step_cost().words,
                f"fitted to steps of vLLM, {gpu_run.provenance()}",
                f"{REQUESTS} requests of {PROMPT} tokens wait at the start; KV cache: {kv or 'without an end'}",
                f"slots busy {self.found.busy(SLOTS):.0%}; first tokens after {waits[0]:.0f} to {waits[-1]:.0f} ms; "
                f"{self.found.preemptions} preempted",
            )
        )


def requests(lengths: str) -> list[Request]:
    """Eighteen requests, all there at the start."""
    dice, (low, high) = random.Random(0), LENGTHS[lengths]
    outputs = [dice.randint(low, high) for _ in range(REQUESTS)]
    if lengths == "one long":
        outputs[2] = 256
    return [Request(0.0, PROMPT, output) for output in outputs]


@lru_cache(maxsize=32)
def result(kind: str, lengths: str, room: str) -> BatchingResult:
    """The pure function of the three controls."""
    policy = Policy(kind, slots=SLOTS, kv_tokens=ROOMS[room])
    return BatchingResult(kind, lengths, room, simulate(requests(lengths), gpu_run.step_cost(), policy))


def batching_explorer(kind: str = "static", lengths: str = "mixed", room: str = "plenty") -> Explorer[BatchingResult]:
    """The explorer; the engine's steps were measured on a GPU, so that none is needed here."""
    controls = (
        Control("kind", "Batches", KINDS, kind),
        Control("lengths", "Answers", tuple(LENGTHS), lengths),
        Control("room", "KV cache", tuple(ROOMS), room),
    )
    return Explorer(controls, result, draw)


def draw(result: BatchingResult, ghost: BatchingResult | None) -> Picture:
    """The slots over time, below those of the setting before."""
    strips = {f"before: {ghost.name}": ghost.found} if ghost and ghost.name != result.name else {}
    picture = timeline({**strips, result.name: result.found}, SLOTS)
    if ghost:
        picture.words = f"{result.words()} Before: {timeline_words({ghost.name: ghost.found}, SLOTS)}"
    return picture
