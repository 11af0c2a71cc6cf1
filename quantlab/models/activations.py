"""W8A8 without its kernels: the inputs of a linear layer rounded to 8 bits while the model runs.

    scale = max |x| of each token / 127         q = round(x / scale) in -128 ... 127         x_hat = scale * q

What vLLM and llm-compressor call dynamic per-token quantization. An int8 kernel multiplies the codes and rescales the
sums; rounding the inputs and multiplying in float32 gives the same numbers up to float32's own rounding.

Source: Xiao et al. 2022, "SmoothQuant" (2211.10438), section 2; compressed-tensors 0.19 (`dynamic`, `strategy: token`).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from quantlab.errors import unknown


def int8_per_token(x: Tensor) -> Tensor:
    """Each token's channels [..., k] on 256 levels of their own.

    >>> import torch
    >>> int8_per_token(torch.tensor([[127.0, 0.4, -3.6], [0.0, 0.0, 0.0]])).tolist()
    [[127.0, 0.0, -4.0], [0.0, 0.0, 0.0]]
    """
    scale = x.abs().amax(-1, keepdim=True) / 127
    scale = scale.masked_fill(scale == 0, 1)
    return (x / scale).round().clamp(-128, 127) * scale


ROUNDINGS = {"int8": int8_per_token}


def round_inputs(layer: nn.Linear, name: str) -> RemovableHandle:
    """Round what a layer reads from now on; `.remove()` on the result ends that. name: of ROUNDINGS."""
    if name not in ROUNDINGS:
        raise unknown("rounding of activations", name, ROUNDINGS)
    rounding = ROUNDINGS[name]
    return layer.register_forward_pre_hook(lambda _, args: (rounding(args[0]), *args[1:]))
