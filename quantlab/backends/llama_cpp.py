"""llama.cpp, through llama-cpp-python's bindings: quantize a GGUF file, and ask it for logits.

Only what measuring needs, on the C interface itself. Serving is a process of its own (quantlab.serve).

    quantize_gguf   here: `llama_model_quantize`, with an importance matrix where one is given
    Logits          quantlab.backends.llama_cpp_logits
    available       quantlab.backends.llama_cpp_library

Reference: llama.h of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from quantlab.atomic import new_file, require_space
from quantlab.backends.llama_cpp_library import LOG, aside, available, library, threads
from quantlab.backends.llama_cpp_logits import Logits
from quantlab.checkpoints.gguf_imatrix import ImportanceMatrix
from quantlab.errors import QuantlabError, unknown
from quantlab.formats.gguf_head import read_head

__all__ = ["FTYPES", "IMPORTANCE_FTYPES", "Logits", "available", "quantize_gguf", "threads"]

# llama.cpp's LLAMA_FTYPE_MOSTLY_..., mixtures of tensor types
FTYPES = (
    "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0", "iq4_nl",
    "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
)  # fmt: skip
# those that are made with an importance matrix only; llama.cpp insists on it for all but iq3_s and iq3_m
IMPORTANCE_FTYPES = (
    "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s", "q2_k_s",
)  # fmt: skip


def quantize_gguf(source: Path, target: Path, ftype: str, imatrix: ImportanceMatrix | None = None) -> Path:
    """Quantize a GGUF file into `target`, whole or not at all, with llama.cpp's own code.

    `ftype` is one of FTYPES, or with an importance matrix of IMPORTANCE_FTYPES. A tensor whose rows do not divide into
    the type's blocks gets another type: read what was really used with `quantlab.checkpoints.gguf_read.tensors`. Raises
    QuantlabError for a matrix that is missing or another model's, and for what llama.cpp refuses.
    """
    if ftype not in (*FTYPES, *IMPORTANCE_FTYPES):
        raise unknown("llama.cpp format", ftype, (*FTYPES, *IMPORTANCE_FTYPES))
    if imatrix is not None:
        imatrix.check(read_head(source))
    elif ftype in IMPORTANCE_FTYPES:
        raise QuantlabError(f"{ftype} is made with an importance matrix only; collect one, or take q2_k or q3_k_s")
    llama = library()
    params = llama.llama_model_quantize_default_params()
    params.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{ftype.upper()}")
    params.nthread = threads()
    columns = {} if imatrix is None else {name: imatrix.importance(name) for name in imatrix.sums}
    kept = {name: values.contiguous() for name, values in columns.items() if values is not None}  # while C reads them
    if kept:
        params.imatrix = _in_c(llama, kept)
    require_space(target.parent, source.stat().st_size, f"quantizing to {ftype}")  # no type is larger than its source
    with new_file(target) as temporary, LOG.quiet():
        if aside(llama.llama_model_quantize, os.fsencode(source), os.fsencode(temporary), params) != 0:
            raise QuantlabError(f"llama.cpp could not quantize {source} to {ftype}: {LOG.reason()}")
    return target


def _in_c(llama: Any, columns: Mapping[str, Tensor]) -> Any:
    """An array of `llama_model_imatrix_data` over these tensors, which must outlive it; an empty one ends it."""
    entries = (llama.llama_model_imatrix_data * (len(columns) + 1))()
    for entry, (name, values) in zip(entries, columns.items(), strict=False):
        entry.name, entry.size = name.encode("utf-8", "surrogateescape"), len(values)
        entry.data = ctypes.cast(values.data_ptr(), ctypes.POINTER(ctypes.c_float))
    return entries
