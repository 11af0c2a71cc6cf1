"""Checks of lesson 3 that fine-tune: train in NF4, merge, quantize again (F14; its first half is part of F15).

A few steps of QLoRA on a few of the bundled tales (quantlab/finetune), measured on tales that it was not trained on:
enough for a verdict in seconds, since what is learned is dozens of standard errors. Lab 3 goes the whole way.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from quantlab.errors import UsageError
from quantlab.lesson.ledger.verdicts import Finding, NotHereError, Part

if TYPE_CHECKING:
    from quantlab.finetune.stages import Stages

STEPS, BATCH = 8, 4
TRAINED, HELD_OUT = 16, 8  # tales


@lru_cache(maxsize=4)
def stages(steps: int, method: str, fmt: str) -> Stages:
    """The loss before, in NF4, trained, merged, and merged and then quantized."""
    from quantlab.finetune.examples import Examples, read_examples
    from quantlab.finetune.merge import save_merged
    from quantlab.finetune.qlora import Settings, available, finetune
    from quantlab.finetune.stages import measure_stages

    if problem := available():
        raise NotHereError(problem)
    tales = read_examples()
    few = Examples(tales.train[:TRAINED], tales.held_out[:HELD_OUT])
    tuned = finetune("tiny", few, Settings(steps=steps, batch=BATCH, warmup=2))
    with tempfile.TemporaryDirectory(prefix="quantlab-finetuned-") as place:
        return measure_stages(tuned, save_merged(tuned, Path(place) / "merged"), few, served=((method, fmt),))


def f14(method: str, fmt: str, steps: float, sure: float) -> Finding:
    """NF4, adapters, merge, another format: what is left of what was learned."""
    if steps != int(steps) or steps < 3:
        raise UsageError(f"steps must be a whole number from 3, it is {steps!r}")
    found = stages(int(steps), method, fmt)
    served = found.stages[-1]
    parts = (
        learned(sure, int(steps), method, fmt),
        Part(f"merged into 16 bits: {_fall(found, 'merged')} below the original", _falls(found, "merged", sure)),
        Part(f"{served.name}, {served.bits:.2f} bits: {_fall(found, served.name)} below the original",
             _falls(found, served.name, sure), essential=True),
    )  # fmt: skip
    told = ", ".join(f"{stage.name} {stage.loss.mean:.3f}" for stage in found.stages)
    figure = f"loss on held-out answers, nats a token: {told}"
    how = f"{int(steps)} steps of QLoRA on {TRAINED} tales, the story model; {HELD_OUT} tales held out; lab 3 does more"
    return Finding(parts, figure, how)


def learned(sure: float, steps: int = STEPS, method: str = "awq", fmt: str = "awq_int4_g128") -> Part:
    """Whether adapters beside weights that rest in NF4 learned anything."""
    found = stages(steps, method, fmt)
    return Part(f"trained in NF4, the loss falls by {_fall(found, 'trained')} nats", _falls(found, "trained", sure))


def _change(found: Stages, name: str) -> tuple[float, float]:
    from quantlab.finetune.stages import difference

    return difference(found["original"].loss, found[name].loss)


def _fall(found: Stages, name: str) -> str:
    fall, stderr = _change(found, name)
    return f"{fall:.3f} ± {stderr:.3f}"


def _falls(found: Stages, name: str, sure: float) -> bool:
    fall, stderr = _change(found, name)
    return fall > sure * stderr
