"""Which folders are converted, and what of a GGUF file is kept: every key, and a hash of every tensor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from random_llama import LINEAR_ROPE, LLAMA3_ROPE, YARN_ROPE, write_model

# family, tokenizer, changes of its config
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "tied": ("llama", "gpt-2", {}),
    "untied_llama3": ("llama", "llama-bpe", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE}),
    "biased_smollm": (
        "llama", "smollm", {"attention_bias": True, "mlp_bias": True, "head_dim": 32, "num_key_value_heads": 4},
    ),
    "linear": ("llama", "gpt-2", {"rope_parameters": LINEAR_ROPE}),
    "mistral": ("mistral", "tekken", {"tie_word_embeddings": False, "sliding_window": 32}),
    "qwen2": ("qwen2", "qwen2", {}),
    "qwen2_yarn": (
        "qwen2", "qwen2", {"tie_word_embeddings": False, "rope_parameters": {**YARN_ROPE, "beta_fast": 16.0}},
    ),
    "qwen3": ("qwen3", "qwen2", {}),
}  # fmt: skip
_SUGGESTED = {
    "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.05, "do_sample": True,
}  # fmt: skip


def write_case(folder: Path, case: str) -> Path:
    """The folder of a case; those of Qwen suggest how to sample, and have their chat template in a file of its own."""
    family, pre, changes = CASES[case]
    write_model(folder, family, pre, **changes)
    if pre == "qwen2":
        (folder / "generation_config.json").write_text(json.dumps(_SUGGESTED))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "chat_template.jinja").write_text(settings.pop("chat_template"))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def digest(path: Path) -> dict[str, Any]:
    """{"metadata": {key: [type, value]}, "tensors": {name: "type [dimensions] sha256"}}; lists as their hash."""
    reader = GGUFReader(path)
    metadata = {
        name: [" ".join(kind.name for kind in field.types[:2]), _short(field.contents())]
        for name, field in reader.fields.items()
        if name[:5] != "GGUF."
    }
    tensors = {
        tensor.name: f"{tensor.tensor_type.name} {tensor.shape.tolist()} {hashlib.sha256(tensor.data).hexdigest()}"
        for tensor in reader.tensors
    }
    return {"metadata": metadata, "tensors": tensors}


def _short(value: Any) -> Any:
    return hashlib.sha256(repr(value).encode()).hexdigest() if isinstance(value, list) else value
