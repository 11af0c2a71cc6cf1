"""A KV cache in few bits: keys and values are rounded when they are stored, and attention reads what is stored.

    fp8_e4m3    a cast, saturating at 448, without a scale: vLLM's `kv_cache_dtype="fp8"` where the checkpoint has none
    q8_0, q4_0  llama.cpp's blocks of 32 along the head: its `--cache-type-k` and `--cache-type-v`

TorchLogits(model, cache=rounded_cache("q4_0")) are the logits of a model that remembers in four bits. Keys are rounded
after their rotation, as both servers do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from quantlab.errors import unknown
from quantlab.formats.catalog import get

LARGEST = 448.0  # of float8_e4m3fn


def _fp8(x: Tensor) -> Tensor:
    return x.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).to(x.dtype)


def _blocks(fmt: str) -> Callable[[Tensor], Tensor]:
    grid = get(fmt)
    return lambda x: grid.quantize(x.reshape(-1, x.shape[-1]).contiguous()).dequantize().reshape(x.shape).to(x.dtype)


BITS = {"fp8_e4m3": 8.0, "q8_0": 8.5, "q4_0": 4.5}  # a number, with its share of the scales


def rounder(fmt: str) -> Callable[[Tensor], Tensor]:
    """What a cache of this format gives back for keys or values [batch, heads, tokens, head_dim].

    >>> rounder("fp8_e4m3")(torch.tensor([0.3, 500.0])).tolist()
    [0.3125, 448.0]
    """
    if fmt not in BITS:
        raise unknown("format of a KV cache", fmt, BITS)
    return _fp8 if fmt == "fp8_e4m3" else _blocks(fmt)


class RoundedCache(DynamicCache):  # type: ignore[misc]
    """transformers' growing cache; what goes in is rounded first."""

    def __init__(self, rounded: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._rounded = rounded

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store keys and values of new tokens; all that are stored come back."""
        found: tuple[Tensor, Tensor] = super().update(
            self._rounded(key_states), self._rounded(value_states), *args, **kwargs
        )
        return found


def rounded_cache(fmt: str) -> Callable[[], RoundedCache]:
    """A maker of empty caches, for `TorchLogits(model, cache=...)`."""
    rounded = rounder(fmt)
    return lambda: RoundedCache(rounded)
