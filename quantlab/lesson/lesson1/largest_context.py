"""Open exercise: the longest texts that fit, for a model, a GPU and a format of the learner's own choice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.layout import layout
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete, not_a_number
from quantlab.lesson.message import Kind, number
from quantlab.plan import memory
from quantlab.plan.gpus import Gpu, gpu
from quantlab.plan.models import ModelShape, shape_from_config, shape_of
from quantlab.plan.recipes import MIXES, check_format

_KEYS = ("model", "gpu", "format", "batch", "context")
_TOKENS = 16  # a page of the KV cache: nobody needs to be more exact
_SHARE = 0.003  # nor than this share of the right number


def right_context(shape: ModelShape, card: Gpu, fmt: str, batch: int) -> float:
    """Tokens of each of `batch` texts that fit beside weights and overhead, by memory alone."""
    return memory.max_tokens(shape, fmt, card) / batch


def wrong_contexts(shape: ModelShape, card: Gpu, fmt: str, batch: int) -> dict[str, float]:
    """What known mistakes lead to, for the same choice."""
    tokens, beside = memory.max_tokens(shape, fmt, card), memory.OVERHEAD_BYTES + memory.weights_bytes(shape, fmt)
    nominal = memory.nominal_bytes(shape.parameters, int(layout(MIXES.get(fmt, fmt)).bits_per_weight))

    def each(nbytes: float) -> float:
        return memory.tokens_in(nbytes, shape) / batch

    return {
        "weights": each(card.memory_bytes - memory.OVERHEAD_BYTES),
        "overhead": memory.max_tokens(shape, fmt, card, overhead_bytes=0) / batch,
        "batch": tokens,
        "batch twice": tokens * batch,
        "nominal": each(card.memory_bytes - memory.OVERHEAD_BYTES - nominal),
        "box": each(card.advertised_gb * memory.GIB - beside),
        "box in GB": each(card.advertised_gb * memory.GB - beside),
    }


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Compare the learner's number with the planner's for the learner's own choice."""
    if (verdict := incomplete(answer, _KEYS)) is not None:
        return verdict
    if reason := not_a_number(answer["context"]):
        return Verdict(Kind.WRONG, (f"`context` is {reason}",))
    try:
        shape, card = _shape(answer["model"]), gpu(str(answer["gpu"]))
        fmt, batch = check_format(str(answer["format"])), answer["batch"]
        memory.memory(shape, fmt, 1, batch)
    except QuantlabError as error:
        return Verdict(Kind.WRONG, (f"{str(error)[:1].upper()}{str(error)[1:]}.",))
    if shape.window is not None:
        said = f"{shape.name} keeps {shape.window:,} tokens of a text at most (a sliding window): choose another model."
        return Verdict(Kind.WRONG, (said,))
    right = right_context(shape, card, fmt, batch)
    if _near(answer["context"], right):
        return Verdict(Kind.PASSED, (_praise(shape, card, fmt, batch, right),))
    for key, value in wrong_contexts(shape, card, fmt, batch).items():
        if _near(answer["context"], value):
            return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)
    side = "too many" if answer["context"] > right else "too few"
    return Verdict(Kind.WRONG, (f"{number(answer['context'])} tokens are {side} for this choice.",))


def _shape(model: Any) -> ModelShape:
    return shape_from_config(model, "your model") if isinstance(model, Mapping) else shape_of(model)


def _near(given: float, value: float) -> bool:
    return abs(given - value) <= _TOKENS + _SHARE * value


def _praise(shape: ModelShape, card: Gpu, fmt: str, batch: int, right: float) -> str:
    setting = f"{shape.name} in {fmt} on one {card.label}"
    if right < 1:
        return f"{setting} does not fit at all, so 0 is right."
    texts = "one text" if batch == 1 else f"{batch:,} texts at the same time"
    beyond = f" It was made for {shape.context:,}: memory is not what limits it." if right > shape.context else ""
    return f"{setting} holds {texts} of up to {number(round(right))} tokens.{beyond}"


_CHOICE = (shape_of("llama-3.1-8b"), gpu("rtx-4090"), "awq_int4_g128", 4)


def _mine(context: float) -> dict[str, Any]:
    shape, card, fmt, batch = _CHOICE
    return {"model": shape.name, "gpu": card.name, "format": fmt, "batch": batch, "context": context}


_STARTER = """\
mine = {
    "model": "llama-3.1-8b",  # a name, or the config.json of your own model: its path, or its contents
    "gpu": "rtx-4090",
    "format": "awq_int4_g128",
    "batch": 4,
    "context": ...,  # your number: tokens of each of the texts
}
"""

exercise = Exercise(
    id="lesson1-largest-context",
    title="Your model on your GPU",
    question=(
        "Choose a model, a GPU, a format and a batch that matter to you. How many tokens may each of the `batch` texts "
        "have before the GPU's memory is full? Weights, KV cache (bf16) and overhead must fit together. Take the "
        "weights from `memory.weights_bytes(model, format)`, the overhead from `memory.OVERHEAD_BYTES`, the GPU's "
        "usable bytes from `gpus.gpu(name).memory_bytes` (all in `quantlab.plan`), and the KV cache from the function "
        "that you wrote. Put your number under `context`."
    ),
    starter=_STARTER,
    answer=_mine(right_context(*_CHOICE)),
    hints=(
        "What is left of the GPU when the weights and the overhead are in it?",
        "Divide what is left by the KV bytes of one token: those are the tokens of all texts together.",
        "`(gpu bytes - weights - overhead) / KV bytes of a token / batch`, all in bytes, not in GB or GiB.",
    ),
    known_wrong=tuple((_mine(value), key) for key, value in wrong_contexts(*_CHOICE).items()),
    diagnoses={
        "weights": "You gave the whole GPU to the KV cache. The weights must be in it too.",
        "overhead": (
            "Weights and KV cache fill the GPU to the last byte, and the server would not start: CUDA's context and "
            "the activations need room, here `memory.OVERHEAD_BYTES`."
        ),
        "batch": "Those are the tokens of all texts together. Each of the `batch` texts has its own: divide by it.",
        "batch twice": "You multiplied by `batch`. More texts leave less room for each: divide by it.",
        "nominal": (
            "You took parameters x nominal bits for the weights. Scales, and what is left in 16 bits, take more: "
            "`memory.weights_bytes(model, format)` counts them."
        ),
        "box": (
            "You took the GB on the GPU's box. The driver and error correction keep some: a program gets "
            "`gpus.gpu(name).memory_bytes`."
        ),
        "box in GB": (
            "You took the GB on the GPU's box as 10^9 bytes. They are GiB, and a program gets a little less than that: "
            "`gpus.gpu(name).memory_bytes`."
        ),
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  # your number: tokens of each of the texts", "0,")
    + """\

from quantlab.plan import gpus, memory

left = gpus.gpu(mine["gpu"]).memory_bytes - memory.weights_bytes(mine["model"], mine["format"]) - memory.OVERHEAD_BYTES
mine["context"] = max(0, left) / memory.kv_bytes_per_token(mine["model"]) / mine["batch"]
""",
)
