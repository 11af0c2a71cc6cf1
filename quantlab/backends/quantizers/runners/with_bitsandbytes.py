"""bitsandbytes 0.50 through transformers: NF4, FP4 and LLM.int8(), as `load_in_4bit` and `load_in_8bit` make them.

The model is saved before anything runs through it: on a CPU with AVX512-BF16 the first forward pass of a 4-bit layer
rearranges its weights in place, and what is saved afterwards is ruined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Say = Callable[[str, float | None], None]


def quantize(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Write a bitsandbytes checkpoint to order["out"]."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, order["dtype"])
    settings: dict[str, Any] = {"load_in_8bit": True}
    if order["bits"] == 4:
        kind, _, double = order["format"].partition("_")
        settings = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, "bnb_4bit_use_double_quant": double == "dq"}
    skip = ["lm_head", *order["keep"]]
    config = BitsAndBytesConfig(**settings, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=skip)
    say("loading and rounding", 0.1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        order["model"], dtype=dtype, quantization_config=config, device_map=device, local_files_only=True
    )
    say("saving", 0.9)
    model.save_pretrained(order["out"])
    return {
        "packages": ["bitsandbytes", "torch", "transformers"],
        "device": device,
        "settings": settings | {"llm_int8_skip_modules": skip},
        "notes": [],
    }
