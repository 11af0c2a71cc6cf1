"""What people call formats and KV caches, and the names that our tables have for them.

A name without a group size means what published checkpoints of that kind have: groups of 128 for AWQ and GPTQ, a scale
for each row of FP8 (llm-compressor's FP8_DYNAMIC), blocks of 128 x 128 for DeepSeek's.
"""

from __future__ import annotations

from quantlab.errors import UsageError, unknown
from quantlab.layout import LAYOUTS
from quantlab.plan.recipes import MIXES, format_names

FORMATS = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "f16": "fp16", "float32": "fp32", "float": "fp32",
    "f32": "fp32", "16bit": "bf16",
    "awq": "awq_int4_g128", "awq_int4": "awq_int4_g128", "awq_4bit": "awq_int4_g128",
    "gptq": "gptq_int4_g128", "gptq_int4": "gptq_int4_g128", "gptq_4bit": "gptq_int4_g128",
    "gptq_int3": "gptq_int3_g128",
    "int4": "int4_g128", "w4a16": "int4_g128", "4bit": "int4_g128", "int3": "int3_g128", "int2": "int2_g128",
    "w8a8": "int8", "int8_w8a8": "int8", "smoothquant": "int8", "8bit": "int8",
    "fp8": "fp8_e4m3_channel", "fp8_dynamic": "fp8_e4m3_channel", "fp8_w8a8": "fp8_e4m3_channel", "w8a8_fp8":
    "fp8_e4m3_channel", "fp8_block": "fp8_e4m3_block128", "fp8_tensor": "fp8_e4m3", "e4m3": "fp8_e4m3",
    "bnb": "nf4", "bitsandbytes": "nf4", "bnb_4bit": "nf4", "bnb_nf4": "nf4", "qlora": "nf4_dq",
    "llm.int8": "llm_int8", "bnb_8bit": "llm_int8", "bnb_int8": "llm_int8",
    "gguf": "q4_k_m", "q4": "q4_0", "q8": "q8_0", "q3_k": "q3_k", "q4km": "q4_k_m", "q5km": "q5_k_m", "q4ks": "q4_k_s",
}  # fmt: skip

KV_BITS = {  # bits of a number in the cache; llama.cpp's types carry a 16-bit scale for each 32
    "fp32": 32.0, "bf16": 16.0, "fp16": 16.0, "fp8": 8.0, "int8": 8.0, "q8_0": 8.5, "q5_1": 6.0, "q5_0": 5.5,
    "q4_1": 5.0, "q4_0": 4.5, "iq4_nl": 4.5,
}  # fmt: skip
_KV_NAMES = {
    "auto": "bf16", "f32": "fp32", "f16": "fp16", "half": "fp16", "float16": "fp16", "bfloat16": "bf16",
    "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "q8": "q8_0", "q4": "q4_0",
}  # fmt: skip
LLAMA_CPP_KV = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")  # vLLM has none of these


def format_called(name: str) -> str:
    """The format that a spelling stands for; an unknown one raises with the nearest.

    >>> [format_called(name) for name in ("awq-int4", "AWQ", "fp8", "Q4_K_M", "int4-g128", "w4a16")]
    ['awq_int4_g128', 'awq_int4_g128', 'fp8_e4m3_channel', 'q4_k_m', 'int4_g128', 'int4_g128']
    """
    spelled = name.strip().lower().replace("-", "_").replace(" ", "_")
    found = FORMATS.get(spelled, spelled)
    if found not in LAYOUTS and found not in MIXES:
        from difflib import get_close_matches

        near = get_close_matches(spelled, [*format_names(), *FORMATS], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise UsageError(f"unknown format {name!r}{hint} Known: {', '.join(format_names())}")
    return found


def kv_called(name: str) -> str:
    """The type of a KV cache that a spelling stands for; an unknown one raises with the nearest.

    >>> kv_called("auto"), KV_BITS[kv_called("fp8_e4m3")], KV_BITS[kv_called("Q8_0")]
    ('bf16', 8.0, 8.5)
    """
    spelled = name.strip().lower().replace("-", "_")
    found = _KV_NAMES.get(spelled, spelled)
    if found not in KV_BITS:
        raise unknown("type of KV cache", name, KV_BITS)
    return found


def check_kv(kv: str, engine: str) -> None:
    """Refuse a KV cache that the engine does not have."""
    if engine != "llama.cpp" and kv in LLAMA_CPP_KV:
        raise UsageError(
            f"{kv} is a KV cache of llama.cpp, and this format runs on {engine}; take fp8, or a GGUF format"
        )
    if engine == "llama.cpp" and kv in ("fp8", "int8"):
        raise UsageError(f"llama.cpp has no {kv} KV cache; take q8_0 (8.5 bits a number)")
