"""How fast at best: each part of a step is bounded by the bytes it moves or by the operations it does.

    time of a part  =  max( bytes / bandwidth,  operations / rate )                  (the roofline)
    time of a step  =  matrices + attention, one after the other

One step of **decoding** makes one token for each of `batch` texts:

    matrices    every weight is read once, for all texts together;    2 x weights x batch operations
    attention   each text reads a KV cache of its own;                4 x layers x heads x head_dim x context x batch

So at batch 1 the weights are read to be used once: the time is their bytes, and half the bytes is half the time. Every
further text uses the same weights again, until arithmetic takes longer than reading. Attention gains nothing from a
batch, and nothing from smaller weights. **Prefill** reads a whole prompt in one step, which is arithmetic from a few
hundred tokens on.

What the rate is depends on what is multiplied. Weight-only formats (AWQ, GPTQ, NF4, GGUF) turn each weight back into 16
bits: fewer bytes, the same arithmetic, at the 16-bit rate. FP8, INT8 and NVFP4 multiply in their own type where the
card has it, at twice or four times that rate, and are weight-only elsewhere. Attention is computed in 16 bits.

Left out, so that the result is an upper bound of speed: activations, launching kernels, unpacking 4-bit codes,
sampling, the talk between GPUs, what the engine does between steps. `efficiency` is a visible factor for all of that,
on bandwidth and rate alike: 1 is the bound. In a mixture of experts a batch reads the experts that any of its tokens
wakes: of n, where each token wakes k at random, n x (1 - (1 - k/n)^batch) on average. Latent attention is counted as it
decodes, over its compressed vectors. Source: Williams, Waterman and Patterson, "Roofline", CACM 2009. What to do with
it: quantlab.plan.speed, capacity and cost. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from quantlab.errors import UsageError
from quantlab.plan.gpus import Gpu
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.memory import Model, kv_bytes_per_token, memory, weights_by_kind
from quantlab.plan.models import shape_of
from quantlab.plan.recipes import check_format

# What a format is multiplied in where the card can. All others are weight-only: 16 bits.
NATIVE = {
    "int8": "int8", "llm_int8": "int8", "nvfp4": "fp4", "mxfp4": "fp4", "fp8_e4m3": "fp8", "fp8_e4m3_channel": "fp8",
    "fp8_e4m3_block128": "fp8", "fp8_e5m2": "fp8",
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What one step moves and does: bytes read and operations, of the matrices and of attention.

    The output head is counted apart: GPU checkpoints leave it in 16 bits, and it is multiplied so.
    """

    tokens: int
    weight_bytes: float
    kv_bytes: float
    matrix_operations: float
    head_operations: float
    attention_operations: float


@dataclass(frozen=True)
class Step:
    """A step on a card: what it does, the type it is multiplied in, and its four times, of which two count."""

    work: Work
    dtype: str
    read_weights_s: float
    multiply_s: float
    read_kv_s: float
    attend_s: float

    @property
    def seconds(self) -> float:
        """The bound: nothing faster is possible, at efficiency 1, for kernels that run one after the other."""
        return max(self.read_weights_s, self.multiply_s) + max(self.read_kv_s, self.attend_s)

    @property
    def bound(self) -> str:
        """What the matrices wait for: "memory" or "compute"."""
        return "memory" if self.read_weights_s >= self.multiply_s else "compute"

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all texts together, each second."""
        return self.work.tokens / self.seconds


@dataclass(frozen=True)
class Roof:
    """The ceilings of a card, or of several with the same model split over them."""

    bandwidth: float  # bytes a second
    rate: float  # operations a second of the matrices, in `dtype`
    rate_16: float  # of attention
    dtype: str

    def step(self, work: Work) -> Step:
        """How long this work takes under this roof."""
        multiply_s = work.matrix_operations / self.rate + work.head_operations / self.rate_16
        return Step(
            work, self.dtype, work.weight_bytes / self.bandwidth, multiply_s,
            work.kv_bytes / self.bandwidth, work.attention_operations / self.rate_16,
        )  # fmt: skip


def roof(card: Gpu | str, fmt: str, gpus: int = 1, efficiency: float = 1.0) -> Roof:
    """The ceilings for a format on so many equal cards, each lowered to the share `efficiency` that is reached.

    >>> roof("h100", "fp8_e4m3").dtype, roof("a100-80", "fp8_e4m3").dtype  # an A100 does not multiply FP8
    ('fp8', '16 bits')
    """
    card = gpu_named(card) if isinstance(card, str) else card
    if not card.bandwidth:
        raise UsageError(f"the bandwidth of {card.label} is not known; measure it: plan.detect.measured_cpu()")
    share = between("efficiency", efficiency, 0.001, 1) * whole("gpus", gpus)
    dtype = NATIVE.get(check_format(fmt), "")
    own = card.rate(dtype) if dtype else None
    rate_16 = card.rate_16 * share
    return Roof(card.bandwidth * share, own * share if own else rate_16, rate_16, dtype if own else "16 bits")


@lru_cache(maxsize=256)
def _streamed(model: Model, fmt: str) -> tuple[float, float, float]:
    """Bytes of weights that every step reads, bytes of all experts, and weights that one token is multiplied with.

    The embedding is looked up, not multiplied, unless it is the output head too.
    """
    shape, kinds = shape_of(model), weights_by_kind(model, fmt)
    apart = {"vision", "experts"} | ({"embedding"} if "lm_head" in kinds else set())
    always = sum(nbytes for kind, nbytes in kinds.items() if kind not in apart)
    added = {"norm", "bias"} | (apart - {"experts", "vision"})
    weights = shape.active_parameters - sum(tensor.weights for tensor in shape.tensors() if tensor.kind in added)
    return float(always), float(kinds.get("experts", 0)), float(weights)


def _weight_bytes(model: Model, fmt: str, tokens: int) -> float:
    """Bytes of weights that a step reads which computes so many tokens."""
    always, experts, _ = _streamed(model, fmt)
    mixture = shape_of(model).experts
    if mixture is None:
        return always
    return always + experts * (1 - (1 - mixture.per_token / mixture.count) ** tokens)


def decode_work(model: Model, fmt: str, batch: int = 1, context: int = 1024, kv_bits: float = 16) -> Work:
    """What one token for each of `batch` texts of `context` tokens costs.

    >>> work = decode_work("llama-3.1-8b", "bf16")
    >>> round(work.weight_bytes / 1e9, 1), round(work.kv_bytes / 1e9, 2), round(work.matrix_operations / 1e9)
    (15.0, 0.13, 14)
    """
    batch, fmt = whole("batch", batch), check_format(fmt)
    _, _, weights = _streamed(model, fmt)
    kv_bytes, attention = _attention(model, fmt, context, kv_bits)
    head = 2 * _head(model) * batch
    read = _weight_bytes(model, fmt, batch)
    return Work(batch, read, batch * kv_bytes, 2 * weights * batch - head, head, attention * batch)


def prefill_work(model: Model, fmt: str, prompt: int, batch: int = 1, kv_bits: float = 16) -> Work:
    """What reading `batch` prompts of `prompt` tokens in one step costs; only the last token gets an output head.

    Token i looks at the i tokens before it, so attention costs half of `prompt` tokens that look at `prompt` each.

    >>> prefill_work("llama-3.1-8b", "bf16", 2048).tokens
    2048
    """
    batch, prompt, fmt = whole("batch", batch), whole("prompt", prompt), check_format(fmt)
    _, _, weights = _streamed(model, fmt)
    kv_bytes, attention = _attention(model, fmt, prompt, kv_bits)
    matrices, head = 2 * (weights - _head(model)) * prompt * batch, 2 * _head(model) * batch
    read = _weight_bytes(model, fmt, batch * prompt)
    return Work(batch * prompt, read, batch * kv_bytes, matrices, head, attention * prompt * batch / 2)


def _head(model: Model) -> float:
    return float(shape_of(model).vocab * shape_of(model).hidden)


def _attention(model: Model, fmt: str, context: int, kv_bits: float) -> tuple[float, float]:
    """Bytes of KV cache of one text, and the operations with which one token looks at it (windows count)."""
    shape = shape_of(model)
    kv_bytes = memory(model, fmt, context, kv_bits=kv_bits).kv_bytes
    tokens = kv_bytes / kv_bytes_per_token(model, kv_bits)  # fewer than the context where a window forgets
    latent = shape.latent
    numbers = 2 * latent.kv_rank + latent.rope if latent else 2 * shape.head_dim  # a head multiplies, for each token
    return float(kv_bytes), 2.0 * shape.layers * shape.heads * numbers * tokens


def decode(
    model: Model, fmt: str, gpu: Gpu | str, batch: int = 1, context: int = 1024, *,
    gpus: int = 1, kv_bits: float = 16, efficiency: float = 1.0,
) -> Step:  # fmt: skip
    """One step of decoding under the roof of a card, or of `gpus` cards that share the model.

    >>> step = decode("llama-3.1-8b", "bf16", "a100-80")
    >>> round(step.tokens_per_s), step.bound
    (135, 'memory')
    """
    return roof(gpu, fmt, gpus, efficiency).step(decode_work(model, fmt, batch, context, kv_bits))


def prefill(
    model: Model, fmt: str, gpu: Gpu | str, prompt: int, batch: int = 1, *,
    gpus: int = 1, kv_bits: float = 16, efficiency: float = 1.0,
) -> Step:  # fmt: skip
    """Reading prompts in one step under the roof of a card: its seconds are the least time to a first token.

    >>> prefill("llama-3.1-8b", "bf16", "a100-80", 2048).bound
    'compute'
    """
    return roof(gpu, fmt, gpus, efficiency).step(prefill_work(model, fmt, prompt, batch, kv_bits))


def whole(what: str, value: int) -> int:
    """The value, or an error that names it: a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10**9:
        raise UsageError(f"{what} must be a whole number from 1 to 1,000,000,000, it is {value!r}")
    return value


def between(what: str, value: float, least: float, most: float) -> float:
    """The value, or an error that names it: a number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(f"{what} must be a number from {least:g} to {most:g}, it is {value!r}")
    return value
