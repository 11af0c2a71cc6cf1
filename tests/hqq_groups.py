"""Groups of real weights with a scale of 1, on which the hqq package was recorded."""

from __future__ import annotations

from layer_inputs import folder_of
from torch import Tensor

BITS, GROUPS, STEPS = (2, 3, 4), 24, 20


def stretched(bits: int) -> Tensor:
    """The first GROUPS groups of 64 weights of the bundled model, each with a range of 2^bits - 1. float32."""
    from safetensors import safe_open

    with safe_open(folder_of("tiny") / "model.safetensors", "pt") as file:
        W = file.get_tensor("model.layers.0.self_attn.q_proj.weight").double()
    groups = W.reshape(-1, 64)[:GROUPS]
    reach = groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True)
    return (groups / reach * (2**bits - 1)).float()
