"""llm-compressor 0.14: GPTQ, AWQ, SmoothQuant and rounding, into compressed-tensors checkpoints.

What vLLM's own project maintains, and the successor of AutoAWQ. A recipe is a list of modifiers, each with a scheme:
which bits for weights, and for inputs where those are rounded too. The model runs in its own type, because the scales
are stored in that type.

AWQ needs a GPU here: `AWQModifier` pins memory, which fails without one ("Cannot access accelerator device").
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

Say = Callable[[str, float | None], None]

# format -> preset of compressed-tensors; integer formats in groups are spelled out below
SCHEMES = {
    "int8": "W8A8",
    "fp8_e4m3": "FP8",
    "fp8_e4m3_channel": "FP8_DYNAMIC",
    "fp8_e4m3_block128": "FP8_BLOCK",
    "nvfp4": "NVFP4A16",
    "nvfp4_w4a4": "NVFP4",
    "mxfp4": "MXFP4A16",
    "mxfp4_w4a4": "MXFP4",
}


def quantize(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Write a compressed-tensors checkpoint to order["out"]."""
    # with it llm-compressor 0.14 does not make the level in which its GPTQ reports, and fails there
    os.environ.pop("LLM_COMPRESSOR_LOG_DISABLED", None)
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(
        order["model"], dtype=getattr(torch, order["dtype"]), local_files_only=True
    )
    recipe, described = _recipe(order)
    windows = order["windows"]
    data: dict[str, Any] = {}
    if windows:
        rows = {"input_ids": windows, "attention_mask": [[1] * len(row) for row in windows]}
        data = {
            "dataset": Dataset.from_dict(rows), "max_seq_length": max(map(len, windows)),
            "num_calibration_samples": len(windows), "shuffle_calibration_samples": False,
        }  # fmt: skip
    oneshot(model=model, processor=AutoTokenizer.from_pretrained(order["model"]), recipe=recipe, **data)
    say("saving", 1.0)
    model.save_pretrained(order["out"], save_compressed=True)
    return {
        "packages": ["llmcompressor", "compressed-tensors", "torch", "transformers"],
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "settings": {"recipe": described},
        "notes": [],
    }


def _recipe(order: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """The modifiers, and the same in words."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    target = _scheme(order) | {"ignore": ["lm_head", *order["keep"]]}
    parts = order["method"].split("_")  # smoothquant_gptq is both
    steps: list[Any] = [SmoothQuantModifier(smoothing_strength=0.5)] if "smoothquant" in parts else []
    steps += [AWQModifier()] if "awq" in parts else []
    steps.append(GPTQModifier(**target) if "gptq" in parts else QuantizationModifier(**target))
    return steps, [type(step).__name__ for step in steps]


def _scheme(order: dict[str, Any]) -> dict[str, Any]:
    """The scheme as the modifiers take it."""
    if order["format"] in SCHEMES:
        return {"targets": ["Linear"], "scheme": SCHEMES[order["format"]]}
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    group = order["group"]
    spread = {"strategy": "group", "group_size": group} if group > 0 else {"strategy": "channel"}
    weights = QuantizationArgs(num_bits=order["bits"], type="int", symmetric=order["symmetric"], **spread)
    return {"config_groups": {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}}
