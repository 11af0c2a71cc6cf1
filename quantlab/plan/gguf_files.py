"""A GGUF file as a model to plan: its metadata say the shape, its list of tensors the bytes, to the last one.

The head of a file is read elsewhere (quantlab.formats.gguf_head, bounded); here are only its words:

    {architecture}.block_count, embedding_length, ...      the numbers of a config.json under other names
    general.file_type                                      which mixture of types it was made as
    no output.weight                                       the output head is the table of embeddings

Reference: llama.cpp, gguf-py/gguf/constants.py (keys) and include/llama.h (`llama_ftype`), release of llama-cpp-python
0.3.36. Left out: experts, files in several parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from quantlab.errors import QuantlabError, unknown
from quantlab.plan.configs import shape_from_config
from quantlab.plan.shapes import ModelShape

FAMILIES = {
    "llama": "llama", "mistral": "mistral", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "phi3": "phi3",
}  # fmt: skip
KEYS = {  # in a config.json -> in a GGUF file, after the architecture
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
    "sliding_window": "attention.sliding_window",
}
OPTIONAL = ("num_key_value_heads", "head_dim", "vocab_size", "sliding_window")
FILE_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 25: "iq4_nl", 30: "iq4_xs",
    32: "bf16",
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A file that is there: its format, and the bytes of its tensors."""

    fmt: str
    nbytes: int


def shape_from_gguf(metadata: Mapping[str, Any], tensors: Collection[str], name: str) -> ModelShape:
    """The shape that a file's metadata describe; `tensors` are the names of what it holds.

    Raises QuantlabError for an architecture that is not known, an absent key, and a part of a file.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in FAMILIES:
        raise unknown("architecture of a GGUF file", str(architecture), FAMILIES)
    if (parts := metadata.get("split.count", 1)) > 1:
        raise QuantlabError(f"{name} is one of {parts} parts of a model; plan the model by its name and --format")
    config: dict[str, Any] = {
        "model_type": FAMILIES[architecture],
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    for key, word in KEYS.items():
        value = metadata.get(f"{architecture}.{word}")
        if value is not None:
            config[key] = value
        elif key not in OPTIONAL:
            raise QuantlabError(f"{name} lacks {architecture}.{word}; convert the model again")
    config.setdefault("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
    return shape_from_config(config, name, source=name)


def stored_as(metadata: Mapping[str, Any], nbytes: int, name: str) -> Stored:
    """The format that a file says it is in, with the bytes of its tensors."""
    number = metadata.get("general.file_type")
    if number not in FILE_TYPES:
        known = ", ".join(FILE_TYPES.values())
        raise QuantlabError(f"{name} is of file type {number}, which is not known here; known are {known}")
    return Stored(FILE_TYPES[number], nbytes)
