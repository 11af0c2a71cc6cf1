"""A Llama in two languages: the names, shapes and rotary order of its tensors in transformers and in GGUF.

The same numbers under other names, with two twists:

- **Rotary pairs.** Rotary embeddings turn pairs of a head's d components. transformers pairs component i with i + d/2;
  llama.cpp's Llama pairs neighbours 2i and 2i + 1. So the rows of the query and key projections are reordered:

      transformers   a0 a1 a2 a3 b0 b1 b2 b3       (a_i turns with b_i)
      GGUF           a0 b0 a1 b1 a2 b2 a3 b3

- **Llama 3's long context** slows the slow rotations down; GGUF stores the divisors as a tensor, rope_freqs.weight.

Reference: llama.cpp, conversion/llama.py (`permute`, `generate_extra_tensors`; release of llama-cpp-python 0.3.36).
Left out: mixtures of experts, other families, other rotary scalings.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.errors import QuantlabError

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")  # both are "llama" to llama.cpp

_OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LINEAR = {  # the layers that quantization is about
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


def check_config(config: dict[str, Any], where: Path) -> None:
    """Raise QuantlabError unless config.json (at `where`) is a Llama that GGUF's "llama" can express."""
    architecture = (config.get("architectures") or ["model of unknown architecture"])[0]
    if architecture not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        raise QuantlabError(f"{where} is a {architecture}; only {known} can be written as GGUF here")
    if (kind := rope(config).get("rope_type", "default")) not in ("default", "llama3"):
        raise QuantlabError(f"{where} scales rotary embeddings by {kind!r}; GGUF is written for 'default' and 'llama3'")


def rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings, where transformers 5 writes them (rope_parameters) or where 4 did."""
    old = dict(config.get("rope_scaling") or {})
    old.setdefault("rope_type", old.pop("type", "default"))
    return config.get("rope_parameters") or {**old, "rope_theta": config.get("rope_theta", 10000.0)}


def head_dim(config: dict[str, Any]) -> int:
    """Components of a head; some models state it, since it need not be hidden / heads."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def kv_heads(config: dict[str, Any]) -> int:
    """Key and value heads; as many as query heads unless stated."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def turned_heads(name: str, config: dict[str, Any]) -> int | None:
    """In how many heads the rows of this tensor turn; None for all but queries and keys."""
    heads = {"self_attn.q_proj": int(config["num_attention_heads"]), "self_attn.k_proj": kv_heads(config)}
    match = _LAYER.fullmatch(name)
    return heads.get(match[2]) if match else None


def gguf_name(name: str) -> str:
    """The name in the file of a tensor of the checkpoint.

    >>> gguf_name("model.layers.3.mlp.down_proj.weight")
    'blk.3.ffn_down.weight'
    """
    if name in _OUTER:
        return _OUTER[name]
    match = _LAYER.fullmatch(name)
    kind = {**LINEAR, **_NORMS}.get(match[2]) if match else None
    if match is None or kind is None:
        raise QuantlabError(f"the tensor {name} has no place in a GGUF Llama; leave it out of the checkpoint")
    return f"blk.{match[1]}.{kind}.{match[3]}"


def expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that this configuration implies, in the order of the model."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = config["num_attention_heads"] * head_dim(config), kv_heads(config) * head_dim(config)
    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in matrices.items():
            biased = config.get("attention_bias" if name.startswith("self_attn") else "mlp_bias")
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if biased:
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
        shapes |= {f"model.layers.{layer}.{name}.weight": (hidden,) for name in _NORMS}
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def interleave_pairs(W: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head so that rotary pairs (i, i + d/2) become neighbours (2i, 2i + 1).

    W [heads * d, ...] -> the same shape.

    >>> interleave_pairs(torch.arange(8), heads=2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return W.reshape(heads, 2, -1, *W.shape[1:]).transpose(1, 2).reshape(W.shape)


def rope_factors(config: dict[str, Any]) -> Tensor | None:
    """Llama 3's stretching of slow rotations, a divisor for each frequency [d/2]; None where there is none."""
    settings = rope(config)
    if settings.get("rope_type", "default") != "llama3":
        return None
    d, length = head_dim(config), settings["original_max_position_embeddings"]
    low, high, factor = settings["low_freq_factor"], settings["high_freq_factor"], settings["factor"]
    frequency = float(settings["rope_theta"]) ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    turns = length * frequency / (2 * math.pi)  # over the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)  # 0: stretched in full, 1: left alone
    factors: Tensor = 1 / ((1 - smooth) / factor + smooth)
    return factors.float()
