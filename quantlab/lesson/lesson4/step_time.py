"""Exercise: the roofline of one step of decoding."""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases, source
from quantlab.lesson.judging import Case
from quantlab.plan.gpus import gpu
from quantlab.plan.roofline import decode_work, roof

Card = dict[str, float]
Model = dict[str, float]


def step_seconds(card: Card, model: Model, batch: int) -> float:
    """The least time in which `batch` texts get one more token each."""
    read = model["weight_bytes"] / card["bytes_per_s"]  # once, for all texts together
    multiply = 2 * model["weights"] * batch / card["operations_per_s"]
    attention = model["kv_bytes"] * batch / card["bytes_per_s"]  # each text has a cache of its own
    return max(read, multiply) + attention


def _parts(card: Card, model: Model, batch: int) -> tuple[float, float, float]:
    bytes_per_s, rate = card["bytes_per_s"], card["operations_per_s"]
    read, multiply = model["weight_bytes"] / bytes_per_s, 2 * model["weights"] * batch / rate
    return read, multiply, model["kv_bytes"] * batch / bytes_per_s


def _added(card: Card, model: Model, batch: int) -> float:
    return sum(_parts(card, model, batch))


def _memory_only(card: Card, model: Model, batch: int) -> float:
    read, _, attention = _parts(card, model, batch)
    return read + attention


def _weights_each(card: Card, model: Model, batch: int) -> float:
    read, multiply, attention = _parts(card, model, batch)
    return max(read * batch, multiply) + attention


def _one_cache(card: Card, model: Model, batch: int) -> float:
    read, multiply, attention = _parts(card, model, batch)
    return max(read, multiply) + attention / batch


def _one_operation(card: Card, model: Model, batch: int) -> float:
    read, multiply, attention = _parts(card, model, batch)
    return max(read, multiply / 2) + attention


def _smaller(card: Card, model: Model, batch: int) -> float:
    read, multiply, attention = _parts(card, model, batch)
    return min(read, multiply) + attention


def _no_cache(card: Card, model: Model, batch: int) -> float:
    read, multiply, _ = _parts(card, model, batch)
    return max(read, multiply)


def _rate(card: Card, model: Model, batch: int) -> float:
    return batch / step_seconds(card, model, batch)


def cases(rng: random.Random) -> list[Case]:
    """Real cards and models, at batches that wait for memory and at batches that wait for arithmetic."""
    found = []
    for card, model, fmt in (
        ("rtx-4090", "llama-3.1-8b", "bf16"),
        ("a100-80", "llama-3.1-8b", "awq_int4_g128"),
        ("l4", "qwen2.5-7b", "gptq_int4_g128"),
    ):
        for batch in (1, rng.randint(4, 16), rng.randint(300, 600)):
            ceiling, work = roof(gpu(card), fmt), decode_work(model, fmt, batch)
            sheet = {"bytes_per_s": ceiling.bandwidth, "operations_per_s": ceiling.rate}
            operations = work.matrix_operations + work.head_operations
            numbers = {
                "weight_bytes": work.weight_bytes,
                "weights": operations / 2 / batch,
                "kv_bytes": work.kv_bytes / batch,
            }
            matrices = max(work.weight_bytes / ceiling.bandwidth, operations / ceiling.rate)
            right = matrices + work.kv_bytes / ceiling.bandwidth
            found.append(Case(f"{model} in {fmt} on {card}, batch {batch}", (sheet, numbers, batch), right))
    return found


exercise = Exercise(
    id="lesson4-step-time",
    title="The time of one step",
    question=(
        "One step of decoding gives each of `batch` texts one more token. Its matrices must be **read** (once, "
        "`weight_bytes`) and **multiplied** (2 operations for each of `weights` and each text): the card does both at "
        "once, so the longer of the two counts. Then each text reads its own KV cache (`kv_bytes`). Write "
        "`step_seconds(card, model, batch)`; `card` has `bytes_per_s` and `operations_per_s`."
    ),
    starter='''\
def step_seconds(card, model, batch):
    """The least time in which `batch` texts get one more token each."""
    ...
''',
    answer=step_seconds,
    hints=(
        'Reading takes `model["weight_bytes"] / card["bytes_per_s"]`, whatever the batch.',
        'Multiplying takes `2 * model["weights"] * batch / card["operations_per_s"]`. `max` of the two.',
        'Add `model["kv_bytes"] * batch / card["bytes_per_s"]`.',
    ),
    known_wrong=(
        (_added, "added"),
        (_memory_only, "memory only"),
        (_weights_each, "weights each"),
        (_one_cache, "one cache"),
        (_one_operation, "one operation"),
        (_smaller, "smaller"),
        (_no_cache, "no cache"),
        (_rate, "rate"),
    ),
    diagnoses={
        "added": "The card reads the next weights while it multiplies these: the longer counts, not the sum.",
        "memory only": "Right for small batches. With hundreds of texts multiplying takes longer than reading.",
        "weights each": "The weights are read once for all texts together: that is what a batch is good for.",
        "one cache": "Each text has a KV cache of its own: `kv_bytes` times batch.",
        "one operation": "A weight costs two operations for each text: a multiplication and an addition.",
        "smaller": "The longer of the two counts: nothing is done before both are.",
        "no cache": "The KV caches are missing: each text reads its own.",
        "rate": "Those are tokens a second. The question is how long one step takes.",
    },
    judge=judge_on_cases(cases, tolerance=1e-6),
    solution_code=source(step_seconds),
)
