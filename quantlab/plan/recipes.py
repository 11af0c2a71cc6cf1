"""Which format each tensor of a checkpoint has: the reason that a "4-bit" file is not 4 bits a weight.

A **GPU checkpoint** (AWQ, GPTQ, bitsandbytes, FP8, compressed-tensors) quantizes the projections inside the blocks and
leaves embeddings, output head, norms, biases, routers and a vision tower in 16 bits.

A **GGUF file** quantizes embeddings and output head too, keeps norms in 32 bits, and mixes types: Q4_K_M is Q4_K with
Q6_K for the output head and for half of the value and down projections (quantlab.plan.mixtures; without an importance
matrix). A vision tower is not in the file: llama.cpp keeps it in a second one, counted here in 16 bits. Checked against
the bits a weight that llama.cpp's README prints for Llama-3.1-8B.
"""

from __future__ import annotations

from quantlab.errors import unknown
from quantlab.layout import LAYOUTS, Layout, layout
from quantlab.plan.blocks import TensorSpec
from quantlab.plan.mixtures import MIXTURES, Mixture, Place, type_of
from quantlab.plan.shapes import LINEAR, ModelShape

FULL = ("fp32", "bf16", "fp16")  # one type for the whole file

# a file type of llama.cpp -> the type that most of its tensors have; a bare K-type stands for a file of it throughout
MIXES = {name: mixture.base for name, mixture in MIXTURES.items()}
_BARE = {name: Mixture(name) for name in ("q3_k", "q4_k", "q5_k")}


def format_names() -> list[str]:
    """Every format that a plan can be made for."""
    return sorted({*LAYOUTS, *MIXES})


def check_format(fmt: str) -> str:
    """The format's name as the tables have it; an unknown one raises with the nearest."""
    name = fmt.strip().lower()
    if name not in LAYOUTS and name not in MIXES:
        raise unknown("format", fmt, format_names())
    return name


def is_gguf(fmt: str) -> bool:
    """Whether the format is a file type of llama.cpp."""
    return fmt in MIXES or fmt in _BARE


def layout_of(tensor: TensorSpec, shape: ModelShape, fmt: str, embeddings: str | None = None) -> Layout:
    """The layout of one tensor in a checkpoint of format `fmt`.

    `embeddings` is the format of the embedding and the output head; None means what such files have: 16 bits in GPU
    checkpoints, quantized in GGUF files.

    >>> from quantlab.plan.models import shape_of
    >>> model = shape_of("llama-3.1-8b")
    >>> [layout_of(t, model, "q4_k_m").name for t in model.tensors() if t.role in ("v_proj", "up_proj")][:2]
    ['q6_k', 'q4_k']
    """
    if tensor.kind in ("embedding", "lm_head") and embeddings is not None:
        return layout(check_format(embeddings))
    if fmt in FULL:
        return layout(fmt)
    if not is_gguf(fmt):
        return layout(fmt if tensor.kind in LINEAR else "bf16")
    if tensor.kind == "vision":
        return layout("fp16")
    if tensor.kind in ("norm", "bias", "router"):
        return layout("fp32")
    role = tensor.kind if tensor.layer is None else tensor.role
    experts = shape.experts.count if shape.experts else 0
    place = Place(role, tensor.shape[-1], tensor.layer or 0, shape.layers, shape.kv_group, shape.tied, experts)
    name = type_of(place, MIXTURES.get(fmt) or _BARE[fmt])
    return layout("fp16" if name == "f16" else name)
