"""What a server needs on each GPU beside weights and KV cache: a small model of each engine, with its error.

vLLM runs one step of the largest size before it allots the KV cache, and keeps its peak free. Two things can be the
peak:

    sampling     sequences x vocabulary x 38 bytes: logits in 32 bits, a sorted copy, its order, probabilities
    a layer      batched tokens x (4 x hidden + 3 x intermediate) x 2 bytes: the stream, gate, up and their product

In the published logs of models up to 32B it is sampling: five logs give 34.8 to 41.2 bytes a logit, median 38.6. Their
"PyTorch activation peak" is met within 11% (quantlab.plan.published, docs/planning.md). To this comes what CUDA takes
outside PyTorch (0.02 to 0.07 GiB; about 0.3 with NCCL on several GPUs). CUDA graphs took 0.1 to 0.7 GiB more: outside
the share of `gpu_memory_utilization` before release 0.21, inside since; on an L4 with 0.25 the sum was no larger than
without them, so they are not added. A different machine's driver has taken 1.8 GiB outside PyTorch: that cannot be
predicted.

llama.cpp allots for 512 tokens at once: their logits and one hidden state in 32 bits. It is exact on its own log
("compute buffer size = 258.50 MiB" for Llama-3-8B). What CUDA takes outside it is an assumption, and so is all of
transformers' row.

Sources: vLLM's arg_utils.get_batch_defaults (2,048 tokens and 256 sequences at once; from 70 GiB on, A100 excepted,
8,192 and 1,024), read in 2026-11; logs in quantlab.plan.published.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantlab.errors import unknown
from quantlab.plan.gpus import GIB, Gpu
from quantlab.plan.shapes import ModelShape
from quantlab.plan.support import family

LOGIT_BYTES = 38  # ASSUMPTION, from five published logs: see above
LARGE_CARD = 70 * GIB  # from here on vLLM takes larger steps


@dataclass(frozen=True)
class Engine:
    """How a server fills a GPU: the share it takes, tokens in a block of its KV cache, and what else it allots.

    `sequences` and `batched_tokens` are the largest step, `large` the same on a card of LARGE_CARD or more;
    `context_bytes` is what CUDA takes, `link_bytes` what talking to other GPUs adds.
    """

    name: str
    utilization: float
    block: int
    sequences: int
    batched_tokens: int
    large: tuple[int, int]
    context_bytes: int
    link_bytes: int
    source: str

    @property
    def by_layer(self) -> bool:
        """Whether several GPUs hold whole layers each, one after the other, rather than a part of every matrix."""
        return self.name != "vLLM"

    def step(self, card: Gpu | None) -> tuple[int, int]:
        """(sequences, batched tokens) of the largest step on this card."""
        small = card is None or card.memory_bytes < LARGE_CARD or card.name.startswith("a100")
        return (self.sequences, self.batched_tokens) if small else self.large

    def activations(self, shape: ModelShape, gpus: int = 1, texts: int = 1, card: Gpu | None = None) -> int:
        """Bytes of the largest step on each of `gpus`, with `texts` answered at once."""
        sequences, tokens = self.step(card)
        if self.name == "llama.cpp":
            return tokens * (shape.vocab + shape.hidden) * 4
        return max(sampling_bytes(shape, max(sequences, texts)), layer_bytes(shape, tokens, gpus))

    def overhead(self, shape: ModelShape, gpus: int = 1, texts: int = 1, card: Gpu | None = None) -> int:
        """Bytes on each of `gpus` beside weights and KV cache.

        >>> from quantlab.plan.models import shape_of
        >>> round(engine("vLLM").overhead(shape_of("qwen2.5-7b")) / GIB, 2)  # its log: 0.03 + 1.42
        1.42
        """
        links = self.link_bytes if gpus > 1 else 0
        return self.context_bytes + links + self.activations(shape, gpus, texts, card)


def sampling_bytes(shape: ModelShape, sequences: int) -> int:
    """What choosing the next token of so many texts takes."""
    return sequences * shape.vocab * LOGIT_BYTES


def layer_bytes(shape: ModelShape, tokens: int, gpus: int = 1) -> int:
    """What one layer needs for so many tokens, its width split over `gpus`; in a mixture each chosen expert's."""
    width = 3 * shape.intermediate // gpus
    if shape.experts is not None:
        chosen = shape.experts.per_token * (3 * shape.experts.intermediate // gpus + shape.hidden)
        width = max(width if shape.experts.dense else 0, chosen + 3 * shape.experts.shared // gpus)
    return 2 * tokens * (4 * shape.hidden + width)


_VLLM = "vLLM's own logs, see quantlab.plan.published"
ENGINES = {
    engine.name: engine
    for engine in (
        Engine("vLLM", 0.92, 16, 256, 2048, (1024, 8192), round(0.04 * GIB), round(0.26 * GIB), _VLLM),
        Engine("llama.cpp", 1.0, 256, 1, 512, (1, 512), round(0.3 * GIB), round(0.1 * GIB),
               "its compute buffer is its log's; 0.3 GiB for CUDA is an assumption"),
        Engine("transformers", 1.0, 1, 1, 2048, (1, 2048), round(0.5 * GIB), round(0.1 * GIB),
               "an assumption: 0.5 GiB for CUDA, and one layer of a prompt of 2,048 tokens"),
    )
}  # fmt: skip


def engine(name: str) -> Engine:
    """The engine of this name; an unknown one raises with the nearest."""
    known = {key.lower(): value for key, value in ENGINES.items()}
    if name.strip().lower() not in known:
        raise unknown("engine", name, ENGINES)
    return known[name.strip().lower()]


def engine_for(fmt: str, card: Gpu | None = None) -> Engine:
    """The engine that people run this format with: vLLM, unless it is GGUF, bitsandbytes, or a Mac or CPU.

    >>> [engine_for(fmt).name for fmt in ("awq_int4_g128", "q4_k_m", "nf4", "bf16")]
    ['vLLM', 'llama.cpp', 'transformers', 'vLLM']
    """
    named = family(fmt)
    if named is None and card is not None and card.maker not in ("NVIDIA", "AMD"):
        return ENGINES["transformers"]
    return ENGINES[{"GGUF": "llama.cpp", "NF4": "transformers"}.get(named or "", "vLLM")]
