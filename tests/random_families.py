"""A tiny random model of every family in the table, made from its config in milliseconds."""

from __future__ import annotations

from typing import Any

import torch

_SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_HEAD = {"head_dim": 16}  # not hidden / heads
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": _HEAD,
    "qwen2": {},
    "qwen3": _HEAD,
    "gemma": _HEAD,
    "gemma2": {**_HEAD, "sliding_window": 8},
    "gemma3_text": {**_HEAD, "sliding_window": 8},
    "phi3": {},
    "phi": {},
}


def make(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """A random causal language model of this type, float32, ready to run."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **{**_SIZES, **CONFIGS[model_type], **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():  # far from linear, and no two channels alike
        if "norm" in name:
            parameter.mul_(1 + torch.rand_like(parameter)).add_(0.2 * torch.rand_like(parameter))
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model
