"""Weights and inputs of real layers: the bundled model and the first blocks of SmolLM2."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.assets import bundled
from quantlab.core import LayerStats
from quantlab.models.bundled import tiny_folder
from quantlab.models.smollm2 import smollm2_folder

MODELS = ("tiny", "smollm2")
TOKENS = 1024
WINDOW = 256


@dataclass(frozen=True)
class Layer:
    """A linear layer y = W x and the inputs that it sees."""

    W: Tensor  # [n, k]  float32
    X: Tensor  # [t, k]  float32

    @property
    def stats(self) -> LayerStats:
        """What calibration would say of X."""
        return stats_of(self.X)

    def output_error(self, W_hat: Tensor) -> float:
        """||X (W - W_hat)'||^2: what GPTQ makes small."""
        return float(((self.X @ (self.W - W_hat).T) ** 2).sum())


def stats_of(X: Tensor) -> LayerStats:
    """The statistics of inputs X [t, k]."""
    return LayerStats(len(X), X.T @ X, X.abs().mean(0), X.abs().amax(0))


def folder_of(model: str) -> Path:
    """The Hugging Face folder of "tiny" or "smollm2"."""
    return tiny_folder() if model == "tiny" else smollm2_folder()


def tokens(model: str) -> Tensor:
    """The first TOKENS tokens of the calibration stories [TOKENS]."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder_of(model))
    lines = bundled("assets/stories/calibrate.jsonl").read_text(encoding="utf-8").splitlines()
    ids: list[int] = []
    for line in lines:
        ids += tokenizer.encode(json.loads(line)["text"])
        if len(ids) >= TOKENS:
            return torch.tensor(ids[:TOKENS])
    raise AssertionError(f"the calibration stories have only {len(ids)} tokens")


@cache
def real_layers(model: str) -> dict[str, Layer]:
    """The linear layers of the first two blocks by their names inside the model, such as "0.self_attn.q_proj"."""
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()  # it reports the blocks that are left out
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder_of(model), num_hidden_layers=2, dtype=torch.float32)
    seen: dict[str, list[Tensor]] = {}
    layers = {name: module for name, module in loaded.model.layers.named_modules() if hasattr(module, "in_features")}
    for name, module in layers.items():
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, []).append(args[0].flatten(0, 1))
        )
    with torch.no_grad():
        for window in tokens(model).split(WINDOW):
            loaded.model(window[None])
    return {name: Layer(module.weight.detach().clone(), torch.cat(seen[name])) for name, module in layers.items()}


def first_layer(model: str, name: str = "q_proj") -> Layer:
    """A projection of the first attention, with inputs that are the same on every machine.

    They are computed from the embedding in float64 and rounded to 255 levels, so X'X is a sum of whole numbers
    below 2^24: exact in float32, in whatever order they are added.
    """
    from safetensors import safe_open

    with safe_open(folder_of(model) / "model.safetensors", "pt") as file:
        table = file.get_tensor("model.embed_tokens.weight").double()
        gain = file.get_tensor("model.layers.0.input_layernorm.weight").double()
        W = file.get_tensor(f"model.layers.0.self_attn.{name}.weight").float()
    h = table[tokens(model)[: TOKENS // 2]]
    x = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain
    X = (x * (127 / x.abs().amax())).round()
    assert X.square().sum(0).max() < 2**24
    return Layer(W, X.float())
