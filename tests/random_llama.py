"""Small Llama, Mistral and Qwen folders with random weights, the same on every machine: for what the bundled model does
not have (an output head of its own, biases, norms of heads, stretched rotary embeddings, rows that no block size
divides, other tokenizers).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_tokenizers import SENTENCEPIECE, byte_level, sentencepiece
from safetensors.torch import save_file

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
_SHARED = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "hidden_act": "silu",
    "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1, "dtype": "bfloat16",
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "head_dim": 16, "attention_bias": False, "mlp_bias": False},
    "mistral": {"architectures": ["MistralForCausalLM"], "head_dim": 24, "sliding_window": None},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "attention_bias": False},
}
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def write_llama(folder: Path, pre: str = "gpt-2", seed: int = 0, **changes: Any) -> Path:
    """A Llama: config.json, model.safetensors (bfloat16) and tokenizer files; `changes` go into the config."""
    return write_model(folder, "llama", pre, seed, **changes)


def write_model(folder: Path, family: str, pre: str = "gpt-2", seed: int = 0, **changes: Any) -> Path:
    """The same of any family."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, settings = sentencepiece() if pre == SENTENCEPIECE else byte_level(pre)
    tokens = {*tokenizer["model"]["vocab"], *(added["content"] for added in tokenizer["added_tokens"])}
    size = {"vocab_size": len(tokens) + 2}  # two rows that no token uses, as many models have
    config = {"model_type": family, **size, **_SHARED, **FAMILIES[family], **changes}
    for name, content in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", settings)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    save_file(_weights(config, family, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _biased(config: dict[str, Any], family: str, name: str) -> bool:
    if family == "llama":
        return bool(config["attention_bias" if "attn" in name else "mlp_bias"])
    return family == "qwen2" and name in _QKV


def _weights(config: dict[str, Any], family: str, seed: int) -> dict[str, torch.Tensor]:
    """Normal numbers, large enough that attention and the gates are far from linear."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    d = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    matrices = {
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), hidden)
    if family == "qwen3":
        norms |= dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), d)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in matrices.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if _biased(config, family, name):
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
        shapes |= {f"model.layers.{layer}.{name}.weight": (size,) for name, size in norms.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    rng, weights = np.random.RandomState(seed), {}  # unlike default_rng, the same numbers in every version of numpy
    for name, shape in shapes.items():
        middle, spread = (1.0, 0.1) if name.endswith("norm.weight") else (0.0, 0.2)
        weights[name] = torch.from_numpy(middle + spread * rng.standard_normal(shape)).to(torch.bfloat16)
    return weights
