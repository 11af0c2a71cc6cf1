"""llama.cpp, through llama-cpp-python: its own quantizers, into one GGUF file.

The model is first converted to bfloat16 as it is, then quantized by `llama_model_quantize`, which mixes types: a Q4_K_M
file keeps some tensors in 6 bits. The importance of columns is collected here, as `llama-imatrix` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quantlab.backends.llama_cpp import quantize_gguf
from quantlab.backends.quantizers.whole_gguf import make_gguf

Say = Callable[[str, float | None], None]


def quantize(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Write a GGUF file to order["out"]."""
    make_gguf(order, say, quantize_gguf)
    settings = {"ftype": order["format"], "imatrix": order["method"] == "imatrix"}
    return {"packages": ["llama_cpp_python", "gguf"], "device": "cpu", "settings": settings, "notes": []}
