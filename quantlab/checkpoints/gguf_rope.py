"""Rotary embeddings in two languages: which components turn together, and how long contexts are reached.

Rotary embeddings turn pairs of a head's d components, pair i by position * theta^(-2i/d). Which two make a pair is a
matter of taste, and tastes differ:

    transformers, and llama.cpp for Qwen     a0 a1 a2 a3 b0 b1 b2 b3       (a_i turns with b_i: d/2 apart)
    llama.cpp for Llama and Mistral          a0 b0 a1 b1 a2 b2 a3 b3       (neighbours)

So the rows of a Llama's query and key projections, and their biases, are reordered on the way (`interleave_pairs`).

A model can be stretched over contexts longer than it was trained on, which slows rotations down:

    linear    every rotation by `factor`                     metadata rope.scaling.type, .factor
    yarn      slow ones by `factor`, fast ones not at all    the same, and the length that it was trained on
    llama3    the same idea with other bounds                a tensor rope_freqs.weight of divisors, one for each pair

Reference: llama.cpp, conversion/llama.py (`permute`, `generate_extra_tensors`) and conversion/base.py
(`set_gguf_parameters`), release of llama-cpp-python 0.3.36; transformers 5.17, modeling_rope_utils.py. Peng et al.
2023, "YaRN" (arXiv 2309.00071). Left out: dynamic and longrope; sections for images (mrope).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.errors import QuantlabError
from quantlab.formats.gguf_values import Kind, Value

_NEEDS = {  # settings without which a stretching is not defined
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
# yarn's options in config.json -> in GGUF; llama.cpp's defaults are transformers' own
_YARN = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def rope(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings, where transformers 5 writes them (rope_parameters) or where 4 did.

    >>> rope({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}})
    {'rope_theta': 500000.0, 'factor': 2.0, 'rope_type': 'linear'}
    """
    old = dict(config.get("rope_scaling") or {})
    old.setdefault("rope_type", old.pop("type", "default"))
    return {"rope_theta": config.get("rope_theta", 10000.0)} | (config.get("rope_parameters") or old)


def rope_type(config: dict[str, Any]) -> str:
    """How the rotations are stretched; "default" where they are not."""
    return str(rope(config).get("rope_type", "default"))


def check_rope(config: dict[str, Any], where: Path, known: tuple[str, ...]) -> None:
    """Raise QuantlabError unless llama.cpp turns as this config says; `known` are the stretchings of its family."""
    settings, kind = rope(config), rope_type(config)
    if kind not in known:
        raise QuantlabError(
            f"{where} scales rotary embeddings by {kind!r}; GGUF is written here for {', '.join(known)}"
        )
    for name in ("rope_theta", *_NEEDS.get(kind, ())):
        if not isinstance(settings.get(name), int | float) or settings[name] <= 0:
            raise QuantlabError(f"{where} has no number for {name} in its rotary settings; complete it")
    usual = 1 + 0.1 * math.log(max(settings.get("factor") or 1, 1))
    odd = {
        "partial_rotary_factor": settings.get("partial_rotary_factor", 1) != 1,
        "attention_factor": kind == "yarn" and abs((settings.get("attention_factor") or usual) - usual) > 1e-3,
        "mscale_all_dim": kind == "yarn" and bool(settings.get("mscale_all_dim")),
        "truncate": kind == "yarn" and settings.get("truncate") is False,
    }
    if wrong := [name for name, found in odd.items() if found]:
        raise QuantlabError(f"{where} sets {wrong[0]} of its rotary embeddings, which llama.cpp ignores; take it out")


def scaling_metadata(config: dict[str, Any]) -> dict[str, Value]:
    """The keys below `rope.scaling.` of a linear or yarn model; none for others.

    >>> scaling_metadata({"rope_scaling": {"type": "linear", "factor": 2.0}})["factor"].plain
    2.0
    """
    settings, kind = rope(config), rope_type(config)
    if kind not in ("linear", "yarn"):
        return {}
    said = {"type": Value(Kind.STRING, kind), "factor": Value(Kind.FLOAT32, settings["factor"])}
    if kind == "yarn":
        said["original_context_length"] = Value(Kind.UINT32, settings["original_max_position_embeddings"])
        for theirs, ours in _YARN.items():
            if settings.get(theirs) is not None:
                said[ours] = Value(Kind.FLOAT32, settings[theirs])
    return said


def interleave_pairs(W: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head so that rotary pairs (i, i + d/2) become neighbours (2i, 2i + 1).

    W [heads * d, ...] -> the same shape.

    >>> interleave_pairs(torch.arange(8), heads=2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return W.reshape(heads, 2, -1, *W.shape[1:]).transpose(1, 2).reshape(W.shape)


def rope_factors(config: dict[str, Any], d: int) -> Tensor | None:
    """Llama 3's stretching of slow rotations, a divisor for each of the d/2 pairs; None where there is none."""
    settings = rope(config)
    if rope_type(config) != "llama3":
        return None
    length = settings["original_max_position_embeddings"]
    low, high, factor = settings["low_freq_factor"], settings["high_freq_factor"], settings["factor"]
    frequency = float(settings["rope_theta"]) ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    turns = length * frequency / (2 * math.pi)  # over the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)  # 0: stretched in full, 1: left alone
    factors: Tensor = 1 / ((1 - smooth) / factor + smooth)
    return factors.float()
