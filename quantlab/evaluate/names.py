"""What `quantlab compare` can be asked for, by name. Standard library only, for the command line.

    int4_g128                         the format as its usual library makes it, round to nearest
    gptq:int4_g128                    METHOD:FORMAT, by quantlab
    llm-compressor:gptq:int4_g128     BACKEND:METHOD:FORMAT
    autoawq:int4_g128                 BACKEND:FORMAT, by the method that this library is for

Of an integer format a library makes what it stores: autoawq:int4_g128 is in awq_int4_g128's layout. A name that ends in
`_asym` has zero points where the format usually has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantlab.errors import UsageError, unknown

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

QUANTLAB, LLAMA_CPP = "quantlab", "llama.cpp"
BACKENDS = (QUANTLAB, "bitsandbytes", "autoawq", "llm-compressor", "gptqmodel", LLAMA_CPP)

ASYMMETRIC = "_asym"
GROUP, GROUPS = "{g}", (128, 64, 32)  # {g} stands for the first of them that divides every row of the model
INTEGERS = {8: "int8", **{bits: f"int{bits}_g{GROUP}{ASYMMETRIC}" for bits in (4, 3, 2)}}
_OURS = ("rtn", "hqq", "awq", "gptq", "awq_gptq")


def crossed(methods: Sequence[str], formats: Sequence[str]) -> list[str]:
    """Every method in every format.

    >>> crossed(["awq", "llm-compressor:gptq"], ["int4_g128"])
    ['awq:int4_g128', 'llm-compressor:gptq:int4_g128']
    """
    return [f"{method}:{fmt}" for fmt in formats for method in methods]


AT_BITS = {  # what competes at so many bits; the integers have zero points, as AutoAWQ's always have
    8: (
        *crossed(("rtn", "smoothquant", "llm-compressor:rtn"), [INTEGERS[8]]),
        "fp8_e4m3_channel",
        "q8_0",
    ),
    4: (
        *crossed((*_OURS, "autoawq:awq", "llm-compressor:gptq", "gptqmodel:gptq"), [INTEGERS[4]]),
        "nf4_dq",
        "nf4",
        "q4_0",
        "llama.cpp:imatrix:q4_0",
        "q4_k_m",
        "llama.cpp:imatrix:q4_k_m",
    ),
    3: (*crossed((*_OURS, "gptqmodel:gptq"), [INTEGERS[3]]), "q3_k_m", "llama.cpp:imatrix:q3_k_m"),
    2: (*crossed((*_OURS, "gptqmodel:gptq"), [INTEGERS[2]]), "q2_k", "llama.cpp:imatrix:q2_k"),
}


@dataclass(frozen=True)
class Spelled:
    """A name taken apart; None where it leaves something to the usual choice."""

    backend: str | None
    method: str | None
    format: str


def spelled(name: str) -> Spelled:
    """Take a name apart: FORMAT, METHOD:FORMAT, BACKEND:FORMAT or BACKEND:METHOD:FORMAT.

    >>> spelled("autoawq:int4_g128")
    Spelled(backend='autoawq', method=None, format='int4_g128')
    """
    *words, fmt = name.split(":")
    backend = words.pop(0) if words and words[0] in BACKENDS else None
    if len(words) > 1 and backend is None:
        raise unknown("backend", words[0], BACKENDS)
    if len(words) > 1 or not fmt or "" in words:
        raise UsageError(f"{name!r} cannot be read; spell it FORMAT, METHOD:FORMAT or BACKEND:METHOD:FORMAT")
    return Spelled(backend, words[0] if words else None, fmt)
