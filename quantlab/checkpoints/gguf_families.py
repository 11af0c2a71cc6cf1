"""Model families in two languages: the names, shapes and settings of their tensors in transformers and in GGUF.

The same decoder under other names. What a family has of its own is data, an entry of FAMILIES:

              GGUF's name   rotary pairs   biases                         norms of heads
    Llama     llama         neighbours     if config.json says so         no
    Mistral   llama         neighbours     none                           no
    Qwen2     qwen2         d/2 apart      q, k, v                        no
    Qwen3     qwen3         d/2 apart      none                           q and k, each head by itself

The name is general.architecture in the file, the prefix of the keys that give the model's sizes, and what llama.cpp
chooses its graph by. Qwen2.5 is a Qwen2.

Reference: llama.cpp, convert_hf_to_gguf.py (conversion/llama.py, conversion/qwen.py, gguf's tensor_mapping.py; release
of llama-cpp-python 0.3.36), and for what loads src/models/*.cpp. Left out: mixtures of experts, models for images.
Sliding windows are dropped, as the converter does for these families: beyond the window llama.cpp still sees what
transformers no longer does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantlab.checkpoints.gguf_rope import check_rope
from quantlab.errors import QuantlabError

LINEAR = {  # the layers that quantization is about
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
    "max_position_embeddings",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Models that are built alike.

    architecture: GGUF's name. classes: transformers' names, `architectures` in config.json. neighbours: so lie rotary
    pairs. biased: projections that always carry a bias; may_be_biased: setting of config.json -> those that then do;
    never: settings that llama.cpp could not follow. head_norms: queries and keys are normalized. wide_heads: head_dim
    need not be hidden / heads. ropes: stretchings of the rotary embeddings. counts_tokens: the file says the size of
    the vocabulary and how many components of a head rotate.
    """

    architecture: str
    classes: tuple[str, ...]
    neighbours: bool = False
    biased: tuple[str, ...] = ()
    may_be_biased: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    never: tuple[str, ...] = ()
    head_norms: bool = False
    wide_heads: bool = True
    ropes: tuple[str, ...] = ("default", "linear", "yarn")
    counts_tokens: bool = False


_LLAMA_ROPES = ("default", "linear", "yarn", "llama3")
FAMILIES = (
    Family(
        "llama", ("LlamaForCausalLM",), neighbours=True, ropes=_LLAMA_ROPES, counts_tokens=True,
        may_be_biased={"attention_bias": (*_QKV, "self_attn.o_proj"), "mlp_bias": _MLP},
    ),
    Family("llama", ("MistralForCausalLM",), neighbours=True, ropes=_LLAMA_ROPES, counts_tokens=True),
    Family("qwen2", ("Qwen2ForCausalLM",), biased=_QKV, wide_heads=False),
    Family("qwen3", ("Qwen3ForCausalLM",), head_norms=True, never=("attention_bias",)),
)  # fmt: skip
_BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def family_of(config: dict[str, Any], where: Path) -> Family:
    """The family of a config.json (at `where`); raises QuantlabError for a model that llama.cpp could not run."""
    name = (config.get("architectures") or ["model of unknown architecture"])[0]
    if name not in _BY_CLASS:
        known = ", ".join(_BY_CLASS)
        raise QuantlabError(f"{where} is a {name}; GGUF is written here for {known}")
    family = _BY_CLASS[name]
    for size in _SIZES:
        if not isinstance(config.get(size), int) or config[size] < 1:
            raise QuantlabError(f"{where} has no whole number for {size}; get the model's own config.json")
    if not family.wide_heads and _queries(config) != config["hidden_size"]:
        raise QuantlabError(f"{where} has heads that do not add up to hidden_size, as llama.cpp's {name} must")
    if odd := [setting for setting in family.never if config.get(setting)]:
        raise QuantlabError(f"{where} sets {odd[0]}, which llama.cpp has no place for in a {name}")
    if (activation := config.get("hidden_act") or "silu") != "silu":
        raise QuantlabError(f"{where} has the activation {activation!r}; llama.cpp runs these models with 'silu'")
    check_rope(config, where, family.ropes)
    return family


def head_dim(config: dict[str, Any]) -> int:
    """Components of a head; some models state it, since it need not be hidden / heads."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def kv_heads(config: dict[str, Any]) -> int:
    """Key and value heads; as many as query heads unless stated."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _queries(config: dict[str, Any]) -> int:
    return int(config["num_attention_heads"]) * head_dim(config)


def turned_heads(name: str, family: Family, config: dict[str, Any]) -> int | None:
    """In how many heads the rows of this tensor change places; None where they stay."""
    heads = {"self_attn.q_proj": int(config["num_attention_heads"]), "self_attn.k_proj": kv_heads(config)}
    match = _LAYER.fullmatch(name)
    return heads.get(match[2]) if match and family.neighbours else None


def gguf_name(name: str) -> str:
    """The name in the file of a tensor of the checkpoint.

    >>> gguf_name("model.layers.3.mlp.down_proj.weight")
    'blk.3.ffn_down.weight'
    """
    if name in OUTER:
        return OUTER[name]
    match = _LAYER.fullmatch(name)
    kind = {**LINEAR, **_NORMS, **_HEAD_NORMS}.get(match[2]) if match else None
    if match is None or kind is None:
        raise QuantlabError(f"the tensor {name} has no place in a GGUF file; leave it out of the checkpoint")
    return f"blk.{match[1]}.{kind}.{match[3]}"


def expected_shapes(family: Family, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that this configuration implies, in the order of the model."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    block = _block(family, config)
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _block(family: Family, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name within a block and shape of each of its tensors."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries, keys = _queries(config), kv_heads(config) * head_dim(config)
    matrices = {
        "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    biased = {*family.biased}
    for setting, names in family.may_be_biased.items():
        biased |= {*names} if config.get(setting) else set()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in matrices.items():
        shapes[f"{name}.weight"] = shape
        if name in biased:
            shapes[f"{name}.bias"] = shape[:1]
    if family.head_norms:
        shapes |= {f"{name}.weight": (head_dim(config),) for name in _HEAD_NORMS}
    return shapes | {f"{name}.weight": (hidden,) for name in _NORMS}
