"""Which folders are converted, and what of a GGUF file is kept: every key, and a hash of every tensor."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from random_llama import LLAMA3_ROPE

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("gpt-2", {}),
    "untied_llama3": ("llama-bpe", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE}),
    "biased_smollm": ("smollm", {"attention_bias": True, "mlp_bias": True, "head_dim": 32, "num_key_value_heads": 4}),
}


def digest(path: Path) -> dict[str, Any]:
    """{"metadata": {key: value}, "tensors": {name: "type [dimensions] sha256"}}; long lists as their hash."""
    reader = GGUFReader(path)
    metadata = {name: _short(field.contents()) for name, field in reader.fields.items() if name[:5] != "GGUF."}
    tensors = {
        tensor.name: f"{tensor.tensor_type.name} {tensor.shape.tolist()} {hashlib.sha256(tensor.data).hexdigest()}"
        for tensor in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}


def _short(value: Any) -> Any:
    return hashlib.sha256(repr(value).encode()).hexdigest() if isinstance(value, list) else value
