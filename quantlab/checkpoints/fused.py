"""Layers that a server fuses into one, and what they must share for that.

vLLM multiplies an input once with q, k and v stacked, and once with gate and up. Stacked layers are stored alike or not
at all, and where a format has one number for the whole matrix (NVFP4's global scale), it has one number for the stack:
vLLM takes the largest of them, and dequantizes the other layers wrongly. So those layers are quantized with the largest
magnitude of all of them:

>>> import torch
>>> from quantlab.formats.catalog import quantize_tensor
>>> W = torch.ones(2, 16)
>>> weights = {"0.q_proj": 2 * W, "0.k_proj": 3 * W, "0.o_proj": W}
>>> fused_absmax(weights)
{'0.q_proj': 3.0, '0.k_proj': 3.0, '0.o_proj': 1.0}
>>> Qs = {name: quantize_tensor(W, "nvfp4", absmax=fused_absmax(weights)[name]) for name, W in weights.items()}

Source: vLLM (`packed_modules_mapping` of its models); llm-compressor 0.14.0.1, `FUSED_LAYER_NAMES`: the same groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("q_a_proj", "kv_a_proj_with_mqa"), ("w1", "w3"))
_SHARED = "weight_global_scale"


def stacks(layers: Iterable[str]) -> list[tuple[str, ...]]:
    """The layers that are fused with another one, stack by stack.

    >>> stacks(["a.q_proj", "a.o_proj", "a.k_proj", "b.q_proj"])
    [('a.q_proj', 'a.k_proj')]
    """
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for layer in layers:
        block, _, name = layer.rpartition(".")
        for group in GROUPS:
            if name in group:
                found.setdefault((block, group), []).append(layer)
    return [tuple(stack) for stack in found.values() if len(stack) > 1]


def fused_absmax(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """For each layer [n, k] the largest magnitude of all that are fused with it: NVFP4's `absmax`."""
    own = {name: float(W.abs().max()) for name, W in weights.items()}
    shared = {name: max(own[one] for one in stack) for stack in stacks(weights) for name in stack}
    return {**own, **shared}


def check_fused(quantized: Mapping[str, QuantizedTensor], layers: Iterable[str]) -> None:
    """Raise QuantlabError where a server could not fuse `quantized`, some of the linear `layers` of a model."""
    for stack in stacks(layers):
        stored = [quantized[name] for name in stack if name in quantized]
        if not stored:
            continue
        if left_out := [name for name in stack if name not in quantized]:
            one = next(name for name in stack if name in quantized)
            raise QuantlabError(
                f"{one} is quantized and {left_out[0]} is not, but servers fuse the two; quantize both or neither"
            )
        scales = [Q.parts[_SHARED] for Q in stored if _SHARED in Q.parts]
        if any(not torch.equal(scale, scales[0]) for scale in scales):
            raise QuantlabError(
                f"{' and '.join(stack)} have different global scales, but servers fuse them into one layer with one; "
                "quantize each with absmax=fused_absmax(weights)[name] of quantlab.checkpoints.fused"
            )
