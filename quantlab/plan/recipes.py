"""Which format each tensor of a checkpoint has: the reason that a "4-bit" file is not 4 bits a weight.

A **GPU checkpoint** (AWQ, GPTQ, bitsandbytes, FP8, compressed-tensors) quantizes the projections inside the blocks and
leaves embeddings, output head, norms and biases in 16 bits.

A **GGUF file** quantizes embeddings and output head too, keeps norms in 32 bits, and mixes types: Q4_K_M is Q4_K with
Q6_K for the output head and for half of the value and down projections. The rules are those of llama.cpp's
src/llama-quant.cpp as vendored by llama-cpp-python 0.3.36 (llama_tensor_get_type_impl, no importance matrix); checked
against the bits a weight that its README prints for Llama-3.1-8B. Left out: types that depend on an importance matrix.
"""

from __future__ import annotations

from quantlab.errors import unknown
from quantlab.layout import LAYOUTS, Layout, layout
from quantlab.plan.shapes import LINEAR, ModelShape, TensorSpec

FULL = ("fp32", "bf16", "fp16")  # one type for the whole file

# a file type of llama.cpp -> the type that most of its tensors have; a bare type such as q8_0 or q4_k is its own base
MIXES = {"q2_k": "q2_k", "q3_k_m": "q3_k", "q4_k_s": "q4_k", "q4_k_m": "q4_k", "q5_k_m": "q5_k"}
_GGUF = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q3_k", "q4_k", "q5_k", "q6_k", *MIXES)

# rows that do not divide into blocks of 256 take a type with blocks of 32 (tensor_type_fallback)
_FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}


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
    return fmt in _GGUF


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
    if tensor.kind in ("norm", "bias"):
        return layout("fp32")
    return _that_fits(_gguf_type(tensor, shape, fmt), tensor.shape[-1])


def _that_fits(name: str, columns: int) -> Layout:
    chosen = layout(name)
    if columns % chosen.block:
        chosen = layout(_FALLBACK.get(name, "fp16"))
    return chosen if columns % chosen.block == 0 else layout("fp16")


def _gguf_type(tensor: TensorSpec, shape: ModelShape, fmt: str) -> str:
    base = MIXES.get(fmt, fmt)
    if tensor.kind == "lm_head" or (tensor.kind == "embedding" and shape.tied):
        return "q8_0" if base == "q8_0" or tensor.shape[-1] % layout(base).block else "q6_k"
    if tensor.layer is None or fmt not in MIXES:
        return base
    chosen = _mixed(tensor.role, tensor.layer, shape, fmt)
    if tensor.role == "v_proj" and shape.layers == 80 and shape.kv_group > 1 and chosen in ("q3_k", "q4_k"):
        return "q5_k"  # "the 70B model": 8 query heads share each value head, so more bits cost next to nothing
    return chosen


def _mixed(role: str, layer: int, shape: ModelShape, fmt: str) -> str:
    """The type of a projection in block `layer`, by llama.cpp's rules for its file types."""
    n, base = shape.layers, MIXES[fmt]
    more = layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2  # use_more_bits
    match fmt, role:
        case "q4_k_m" | "q5_k_m", "v_proj" | "down_proj":
            return "q6_k" if more else base
        case "q4_k_s", "v_proj":
            return "q5_k" if layer < 4 else base
        case "q4_k_s", "down_proj":
            return "q5_k" if layer < n // 8 else base
        case "q3_k_m", "v_proj":
            return "q5_k" if layer < 2 else "q4_k"
        case "q3_k_m", "down_proj":
            return "q5_k" if layer < n // 16 else "q4_k"
        case "q3_k_m", "o_proj":
            return "q4_k"
        case "q2_k", "v_proj":
            return "q4_k" if shape.kv_group >= 4 else "q3_k"
        case "q2_k", "down_proj" | "o_proj":
            return "q3_k"
    return base
