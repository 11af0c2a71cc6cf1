"""Walk a model: its linear layers, its parameters by kind, and the one place where weights are replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantlab.errors import unknown


def linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Name and module of every linear layer that is quantized: all but the output head (and the embeddings).

    >>> [name for name, _ in linear_layers(nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 2)))]
    ['1']
    """
    head = _head(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield name, module


def replace_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy W_hat [n, k] into the linear layers of these names; returns what was there, to put back.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
    >>> before = replace_weights(model, {"0": torch.zeros(2, 2)})
    >>> _ = replace_weights(model, before)
    """
    layers = dict(linear_layers(model))
    for name, W in weights.items():
        if name not in layers:
            raise unknown("linear layer", name, layers)
        if W.shape != layers[name].weight.shape:
            raise ValueError(
                f"{name} has weights of shape {list(layers[name].weight.shape)}, the replacement has {list(W.shape)}; "
                "quantize the layer's own weights"
            )
    before = {name: layers[name].weight.detach().clone() for name in weights}
    with torch.no_grad():
        for name, W in weights.items():
            layers[name].weight.copy_(W)
    return before


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model learned, by what becomes of them when it is quantized."""

    linear: int  # quantized
    embedding: int  # the table of tokens, kept
    head: int  # kept; 0 when it is the embedding itself (tied)
    other: int  # norms and biases, kept

    @property
    def total(self) -> int:
        """All of them, each counted once."""
        return self.linear + self.embedding + self.head + self.other


def parameters(model: nn.Module) -> Parameters:
    """Count the parameters of a model by kind.

    >>> parameters(nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 3)))
    Parameters(linear=6, embedding=8, head=0, other=3)
    """
    kinds: dict[int, str] = {id(layer.weight): "linear" for _, layer in linear_layers(model)}
    if (head := _head(model)) is not None:
        kinds[id(head.weight)] = "head"
    for module in model.modules():  # last, so that a tied head counts as the embedding it is
        if isinstance(module, nn.Embedding):
            kinds[id(module.weight)] = "embedding"
    counts = dict.fromkeys(("linear", "embedding", "head", "other"), 0)
    for weight in model.parameters():  # each tied tensor comes once
        counts[kinds.get(id(weight), "other")] += weight.numel()
    return Parameters(**counts)


def _head(model: Any) -> nn.Linear | None:
    """The output head of a transformers model; None where there is no such thing."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return head if isinstance(head, nn.Linear) else None
