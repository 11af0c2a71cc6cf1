"""What must be in a GPU's memory to serve a model: weights + KV cache + overhead, and what still fits.

    weights     every tensor of the config, in the bytes of its format           exact
    KV cache    2 x layers x kv_heads x head_dim x bits / 8, for each token      exact
                (2: a key and a value; a sliding window keeps at most `window` tokens of each text; latent attention
                keeps one compressed vector instead)
    overhead    CUDA context, activations, CUDA graphs: OVERHEAD_BYTES a GPU     an assumption, see there

Units: GB is 10^9 bytes, GiB is 2^30 (7% more). Bytes are whole numbers here; only what is printed is rounded.
All of it is arithmetic on a config: nothing is loaded, and a plan takes microseconds once the weights are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from quantlab.errors import UsageError
from quantlab.plan.blocks import distinct_tensors
from quantlab.plan.gpus import GPUS, Gpu
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.models import ModelShape, shape_of
from quantlab.plan.recipes import MIXES, check_format, layout_of

GB = 10**9
GIB = 2**30

# ASSUMPTION. A server of one model on one GPU was seen to need 0.03 GiB outside PyTorch and 1.42 GiB for activations
# (vLLM's log in its issue 13882, Qwen2.5-7B); Qwen3-4B on an L4 leaves about 1.3 GiB unexplained (vLLM's page on the
# quantized KV cache). It grows with the batch of tokens computed at once. Change it where you know better.
OVERHEAD_BYTES = round(1.45 * GIB)

VLLM_UTILIZATION = 0.92  # the share of a GPU that vLLM takes unless told otherwise (gpu_memory_utilization)
VLLM_BLOCK = 16  # tokens in one page of its KV cache

Model = str | Path | ModelShape


def nominal_bytes(parameters: int, bits: float) -> int:
    """Parameters x bits / 8: the figure of every slide, with no scales and nothing left in 16 bits.

    >>> nominal_bytes(70 * GB, 4) // GB
    35
    """
    return round(parameters * _number("bits", bits, 0.5, 64) / 8)


@lru_cache(maxsize=1024)
def weights_by_role(shape: ModelShape, fmt: str, embeddings: str | None = None) -> tuple[tuple[str, str, int], ...]:
    """(kind, role, bytes) of a checkpoint: what each sort of matrix takes in all layers together."""
    total: Counter[tuple[str, str]] = Counter()
    # in a mixture of types a layer's place counts; elsewhere one block of each sort stands for all of them
    tensors = ((t, 1) for t in shape.tensors()) if fmt in MIXES else distinct_tensors(shape)
    for tensor, times in tensors:
        rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
        nbytes = layout_of(tensor, shape, fmt, embeddings).matrix_bytes(rows, columns)
        total[tensor.kind, tensor.role] += nbytes * times * tensor.copies
    return tuple((kind, role, nbytes) for (kind, role), nbytes in total.items())


def _weights(shape: ModelShape, fmt: str, embeddings: str | None) -> tuple[tuple[str, int], ...]:
    total: Counter[str] = Counter()
    for kind, _, nbytes in weights_by_role(shape, fmt, embeddings):
        total[kind] += nbytes
    return tuple(total.items())


def weights_by_kind(model: Model, fmt: str, embeddings: str | None = None) -> dict[str, int]:
    """Bytes of a checkpoint for each kind of tensor: embedding, attention, mlp, norm, bias, lm_head."""
    return dict(_weights(shape_of(model), check_format(fmt), embeddings))


def weights_bytes(model: Model, fmt: str, embeddings: str | None = None) -> int:
    """Bytes of a checkpoint in format `fmt`; `embeddings` overrides the format of embeddings and output head.

    >>> round(weights_bytes("llama-3-70b", "awq_int4_g128") / GB, 1)  # not 35
    39.8
    """
    return sum(weights_by_kind(model, fmt, embeddings).values())


def kv_bytes_per_token(model: Model, kv_bits: float = 16) -> int:
    """Bytes of keys and values that one token leaves behind in all layers.

    >>> kv_bytes_per_token("llama-3-70b") // 1024
    320
    """
    shape = shape_of(model)
    return math.ceil(shape.layers * shape.kv_numbers * _number("kv_bits", kv_bits, 1, 32) / 8)


def kv_cache_bytes(model: Model, context: int, batch: int = 1, kv_bits: float = 16, block: int = 1) -> int:
    """Bytes of KV cache for `batch` texts of `context` tokens, each rounded up to whole blocks in every layer.

    A layer with a sliding window keeps its last tokens only: Gemma 3 in 5 of 6 layers.

    >>> kv_cache_bytes("gemma-3-27b", 131072) / kv_cache_bytes("gemma-3-27b", 1024) < 128 / 4
    True
    """
    shape, tokens = shape_of(model), _whole("context", context, 10**8)
    whole, texts = -(-tokens // block) * block, _whole("batch", batch, 10**6)
    kept = whole if shape.window is None else min(whole, -(-shape.window // block) * block)
    in_layers = (shape.layers - shape.windowed_layers) * whole + shape.windowed_layers * kept
    return math.ceil(texts * in_layers * shape.kv_numbers * _number("kv_bits", kv_bits, 1, 32) / 8)


@dataclass(frozen=True)
class MemoryPlan:
    """Every term of what must be in memory, in bytes."""

    shape: ModelShape
    fmt: str
    context: int
    batch: int
    kv_bits: float
    gpus: int
    weights: tuple[tuple[str, int], ...]
    kv_bytes_per_token: int
    kv_bytes: int
    overhead_bytes: int

    @property
    def model(self) -> str:
        """The model's name."""
        return self.shape.name

    @property
    def weights_bytes(self) -> int:
        """All tensors of the checkpoint."""
        return sum(nbytes for _, nbytes in self.weights)

    @property
    def total_bytes(self) -> int:
        """Weights, KV cache and overhead."""
        return self.weights_bytes + self.kv_bytes + self.overhead_bytes

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each parameter of the whole model."""
        return 8 * self.weights_bytes / self.shape.parameters

    def terms(self) -> dict[str, int]:
        """The bars of a picture: label -> bytes, adding up to `total_bytes`."""
        kinds = dict(self.weights)
        edges = kinds.get("embedding", 0) + kinds.get("lm_head", 0)
        return {
            "layers": self.weights_bytes - edges,
            "embedding and output head": edges,
            "KV cache": self.kv_bytes,
            "overhead (assumed)": self.overhead_bytes,
        }


def memory(
    model: Model,
    fmt: str,
    context: int,
    batch: int = 1,
    *,
    kv_bits: float = 16,
    gpus: int = 1,
    embeddings: str | None = None,
    overhead_bytes: int = OVERHEAD_BYTES,
) -> MemoryPlan:
    """The plan for `batch` texts of `context` tokens each, spread over `gpus` equal GPUs (overhead counts on each).

    >>> plan = memory("llama-3-70b", "awq_int4_g128", context=4096)
    >>> fits(plan, "a10"), fits(plan, "a100-80")
    (False, True)
    """
    shape = shape_of(model)
    return MemoryPlan(
        shape=shape, fmt=check_format(fmt), context=context, batch=batch, kv_bits=kv_bits,
        gpus=_whole("gpus", gpus, 1024),
        weights=_weights(shape, check_format(fmt), embeddings),
        kv_bytes_per_token=kv_bytes_per_token(shape, kv_bits),
        kv_bytes=kv_cache_bytes(shape, context, batch, kv_bits),
        overhead_bytes=gpus * round(_number("overhead_bytes", overhead_bytes, 0, 10**12)),
    )  # fmt: skip


def free_bytes(plan: MemoryPlan, gpu: Gpu | str, utilization: float = 1.0) -> int:
    """What the plan leaves free on its GPUs; negative: by how much it does not fit."""
    share = _number("utilization", utilization, 0.01, 1)
    return math.floor(plan.gpus * _card(gpu).memory_bytes * share) - plan.total_bytes


def fits(plan: MemoryPlan, gpu: Gpu | str, utilization: float = 1.0) -> bool:
    """Whether all of it fits into the memory that a program can use on that GPU.

    `utilization` is the share that the engine takes: 1.0 is all there is, vLLM's default is VLLM_UTILIZATION.
    """
    return free_bytes(plan, gpu, utilization) >= 0


def gpus_that_fit(plan: MemoryPlan, utilization: float = 1.0) -> list[Gpu]:
    """The GPUs in our table that the plan fits on, smallest memory first."""
    return [card for card in sorted(GPUS.values(), key=lambda g: g.memory_bytes) if fits(plan, card, utilization)]


def tokens_in(nbytes: float, model: Model, kv_bits: float = 16, block: int = VLLM_BLOCK) -> int:
    """How many tokens of KV cache so many bytes hold, in whole blocks; 0 when `nbytes` is negative.

    >>> tokens_in(11.47 * GIB, "qwen3-4b")  # vLLM 0.25.1 logged 83,488 for what it rounded to 11.47 GiB
    83520
    """
    return max(0, math.floor(nbytes / kv_bytes_per_token(model, kv_bits)) // block * block)


def max_tokens(
    model: Model,
    fmt: str,
    gpu: Gpu | str,
    *,
    gpus: int = 1,
    kv_bits: float = 16,
    utilization: float = 1.0,
    embeddings: str | None = None,
    overhead_bytes: int = OVERHEAD_BYTES,
) -> int:
    """Tokens of KV cache, over all texts together, that fit beside the weights; 0 when the weights do not fit.

    Each is counted in every layer: texts longer than a sliding window need less, see `max_context`.
    """
    empty = memory(model, fmt, 1, gpus=gpus, kv_bits=kv_bits, embeddings=embeddings, overhead_bytes=overhead_bytes)
    return tokens_in(free_bytes(empty, gpu, utilization) + empty.kv_bytes, model, kv_bits)


def max_batch(model: Model, fmt: str, gpu: Gpu | str, context: int, *, gpus: int = 1, kv_bits: float = 16,
              utilization: float = 1.0) -> int:  # fmt: skip
    """How many texts of `context` tokens fit at the same time."""
    empty = memory(model, fmt, 1, gpus=gpus, kv_bits=kv_bits)
    room = free_bytes(empty, gpu, utilization) + empty.kv_bytes
    return max(0, room) // kv_cache_bytes(model, context, 1, kv_bits, VLLM_BLOCK)


def max_context(model: Model, fmt: str, gpu: Gpu | str, batch: int = 1, *, gpus: int = 1, kv_bits: float = 16,
                utilization: float = 1.0) -> int:  # fmt: skip
    """The longest text that fits for each of `batch`, at most what the model was made for."""
    empty = memory(model, fmt, 1, gpus=gpus, kv_bits=kv_bits)
    room = free_bytes(empty, gpu, utilization) + empty.kv_bytes
    return longest_context(shape_of(model), room // _whole("batch", batch, 10**6), kv_bits)


def longest_context(shape: ModelShape, nbytes: int, kv_bits: float = 16, block: int = VLLM_BLOCK) -> int:
    """The longest text whose KV cache takes at most so many bytes, in whole blocks, and at most the model's context.

    >>> longest_context(shape_of("llama-3.1-8b"), 2**30)
    8192
    """
    if nbytes >= kv_cache_bytes(shape, shape.context, 1, kv_bits, block):
        return shape.context
    low, high = 0, -(-shape.context // block)  # blocks: `low` fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        if kv_cache_bytes(shape, middle * block, 1, kv_bits, block) <= nbytes:
            low = middle
        else:
            high = middle
    return low * block


def _card(gpu: Gpu | str) -> Gpu:
    return gpu_named(gpu) if isinstance(gpu, str) else gpu


def _whole(what: str, value: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise UsageError(f"{what} must be a whole number from 1 to {most:,}, it is {value!r}")
    return value


def _number(what: str, value: float, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(f"{what} must be a number from {least:g} to {most:g}, it is {value!r}")
    return value
