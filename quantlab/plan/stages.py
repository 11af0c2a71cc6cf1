"""Tensor and pipeline parallel together: how vLLM lays one model over so many cards and machines, and what each holds.

    tensor parallel      every matrix is cut (quantlab.plan.split): all cards work on one step, and talk twice a layer,
                         so they should share a machine
    pipeline parallel    whole layers on each stage, one after the other: only the hidden state crosses, once a stage,
                         so stages may stand on different machines; a single request is no faster

vLLM's own advice (docs/serving/parallelism_scaling.md, 0.33): tensor parallel over the cards of a machine, pipeline
parallel over machines; and where the cards of a machine do not divide the matrices, pipeline parallel there too. So:
the most cards of a machine that the cut allows, and stages for the rest.

Stages differ: the first holds the embedding, the last the output head, and where the layers do not divide, some hold
one more. The plan must fit the fullest. Layers are taken as alike, which a model of mixed windows is only on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantlab.errors import UsageError
from quantlab.plan.inverse import Need, Setup, need
from quantlab.plan.memory import kv_cache_bytes, weights_by_kind
from quantlab.plan.shapes import ModelShape
from quantlab.plan.spellings import KV_BITS
from quantlab.plan.split import kv_parts, weights_on_one, why_not_split

CARDS_OF_A_MACHINE = 8  # of most GPU servers


@dataclass(frozen=True)
class Parallel:
    """tensor x pipeline cards; `why` says why not all cards of a machine share every matrix, '' where they do."""

    tensor: int
    pipeline: int
    machines: int = 1
    why: str = ""

    @property
    def cards(self) -> int:
        """All of them."""
        return self.tensor * self.pipeline


def parallel(shape: ModelShape, fmt: str, cards: int, of_a_machine: int = CARDS_OF_A_MACHINE) -> Parallel:
    """How to lay a model over so many cards, `of_a_machine` of them in each machine.

    >>> from quantlab.plan.models import shape_of
    >>> parallel(shape_of("llama-3.3-70b"), "awq_int4_g128", 4)
    Parallel(tensor=4, pipeline=1, machines=1, why='')
    >>> split = parallel(shape_of("qwen2.5-72b"), "awq_int4_g128", 2)
    >>> split.tensor, split.pipeline, split.why[:43]
    (1, 2, 'the 29,568 columns of down_proj do not divi')
    >>> parallel(shape_of("llama-3.1-405b"), "bf16", 16).pipeline
    2
    """
    if cards < 1 or of_a_machine < 1:
        raise UsageError(f"a model needs at least 1 card, and a machine has at least 1; got {cards} and {of_a_machine}")
    inside = min(cards, of_a_machine)
    if cards % inside:
        raise UsageError(f"{cards} cards do not fill machines of {of_a_machine}; take a multiple of {of_a_machine}")
    tensor = next(n for n in range(inside, 0, -1) if inside % n == 0 and not why_not_split(shape, fmt, n))
    if (pipeline := cards // tensor) > shape.layers:
        raise UsageError(f"{pipeline} stages are more than the {shape.layers} layers of {shape.name}; take fewer cards")
    return Parallel(tensor, pipeline, cards // inside, why_not_split(shape, fmt, inside))


def need_of_stage(setup: Setup, split: Parallel) -> Need:
    """What each card of the fullest stage must hold; with one stage the same as `inverse.need`."""
    if split.pipeline == 1:
        return need(setup)
    shape, engine = setup.shape, setup.engine
    share = math.ceil(shape.layers / split.pipeline) / shape.layers
    kinds = weights_by_kind(shape, setup.fmt)
    embedding = kinds.get("embedding", 0) / split.tensor
    head = kinds.get("lm_head", 0) / split.tensor or embedding  # where they are tied, both ends hold the matrix
    layers = weights_on_one(shape, setup.fmt, split.tensor) - embedding - kinds.get("lm_head", 0) / split.tensor
    kv = kv_cache_bytes(shape, setup.context, setup.concurrency, KV_BITS[setup.kv], engine.block)
    return Need(
        math.ceil(layers * share + max(embedding, head)),
        math.ceil(kv / kv_parts(shape, split.tensor) * share),
        engine.overhead(shape, split.cards, setup.concurrency, setup.card),
    )
