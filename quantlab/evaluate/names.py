"""The formats that `quantlab compare` measures unless told otherwise. Standard library only, for the command line."""

from __future__ import annotations

BASELINE = "bf16"
DEFAULT_FORMATS = (
    BASELINE,
    "int8",
    "int4_g128",
    "int4_g32",
    "int3_g128",
    "int2_g128",
    "nf4",
    "f16",  # the same weights through llama.cpp: what the engine itself changes
    "q8_0",
    "q4_k_m",
    "q2_k",
)
CONTEXT = 512  # tokens; figures of different contexts cannot be compared, so it does not follow the model
