"""What a server will take, said before it starts: the bytes of its weights, the cache of one whole text, and the room.

    weights     the files' own bytes; what is quantized is already small there
    cache       one text as long as the server's context; vLLM's CPU build takes one gibibyte at least
    room        on a GPU vLLM's share of its memory (0.92); else what this machine has free

Both are the least: an engine takes more (quantlab.plan.engines). So "it does not fit" is certain, and "it fits" is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from quantlab.errors import QuantlabError
from quantlab.formats.gguf_head import read_head
from quantlab.plan.configs import read_config
from quantlab.plan.detect import memory_limit, nvidia_gpus
from quantlab.plan.gguf_files import shape_from_gguf
from quantlab.plan.gpus import GIB
from quantlab.plan.memory import VLLM_UTILIZATION, kv_bytes_per_token
from quantlab.serve.artifacts import Artifact

CPU_CACHE = GIB  # what quantlab gives vLLM's CPU build (quantlab.serve.vllm_server)


@dataclass(frozen=True)
class Expected:
    """Bytes; `cache` is 0 where the model's shape is not known."""

    model: str
    weights: int
    cache: int
    room: int
    where: str
    context: int

    @property
    def fits(self) -> bool:
        """Whether the least that it takes is there."""
        return self.weights + self.cache <= self.room

    def words(self) -> str:
        """The plan in one sentence."""
        return (
            f"planned: {self.weights / GIB:.2f} GiB of weights and {self.cache / GIB:.2f} GiB of KV cache (context "
            f"{self.context:,}), of {self.room / GIB:.2f} GiB {self.where}"
        )

    def refusal(self) -> str:
        """Why it is not started, and the ways out."""
        short = (self.weights + self.cache - self.room) / GIB
        return (
            f"{self.model} does not fit: {short:.2f} GiB are missing ({self.words()}); quantize it to fewer bits, "
            "shorten the context, or free memory: `quantlab plan` shows what would fit"
        )


def expected(artifact: Artifact, context: int, engine: str) -> Expected | None:
    """The plan of a server; None for what is no model file."""
    path = artifact.path
    if path.is_dir():
        weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    elif path.is_file():
        weights = path.stat().st_size
    else:
        return None
    cards = nvidia_gpus() if engine == "vllm" else []
    cache = context * _per_token(path)
    if cards:
        room, where = int(cards[0].memory_bytes * VLLM_UTILIZATION), f"that vLLM may fill of {cards[0].label}"
    else:
        room, where = min(psutil.virtual_memory().available, memory_limit()), "free on this machine"
        cache = max(cache, CPU_CACHE) if engine == "vllm" else cache
    return Expected(artifact.model, weights, cache, room, where, context)


def _per_token(path: Path) -> int:
    """Bytes of KV cache for a token in 16 bits; 0 where the planner does not know the family."""
    try:
        if path.is_dir():
            return int(kv_bytes_per_token(read_config(path)))
        head = read_head(path)
        return int(kv_bytes_per_token(shape_from_gguf(head.metadata, head.tensors, path.stem)))
    except QuantlabError:
        return 0
