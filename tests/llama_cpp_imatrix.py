"""llama.cpp's own importance matrix, collected from inside it: what tools/imatrix/imatrix.cpp does, by the same hook.

llama.cpp calls back for every operation it computes. Of each product with a weight of a block, the squares of the
inputs are added up; the name of the weight is what llama.cpp itself calls it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ggml_oracle import library_of
from torch import Tensor


class _Tensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h."""

    _fields_ = (
        ("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("ne", ctypes.c_int64 * 4), ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int), ("op_params", ctypes.c_int32 * 16), ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10), ("view_src", ctypes.c_void_p), ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p), ("name", ctypes.c_char * 64),
    )  # fmt: skip


def collect_by_llama_cpp(
    llama_cpp: ModuleType, path: Path, sequences: Sequence[Sequence[int]]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Sums of x^2 [k], float32, and tokens, by the name of the weight; each sequence starts afresh."""
    base = ctypes.CDLL(str(library_of(llama_cpp)))
    base.ggml_op_name.restype = ctypes.c_char_p
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def computed(pointer: int, ask: bool, data: Any) -> bool:
        tensor = _Tensor.from_address(pointer)
        if base.ggml_op_name(tensor.op) != b"MUL_MAT":
            return False
        weight, inputs = (_Tensor.from_address(tensor.src[i]) for i in range(2))
        name = weight.name.decode()
        if not name.startswith("blk.") or ask:
            return name.startswith("blk.")
        k, rows = inputs.ne[0], inputs.ne[1]
        assert (inputs.type, inputs.nb[0], inputs.nb[1], inputs.ne[2], inputs.ne[3]) == (0, 4, 4 * k, 1, 1), name
        flat = (ctypes.c_float * (k * rows)).from_address(inputs.data)
        X = torch.frombuffer(flat, dtype=torch.float32).reshape(rows, k)
        sums[name] = sums.get(name, torch.zeros(k)) + (X * X).sum(0)
        counts[name] = counts.get(name, 0) + rows
        return True

    callback = llama_cpp.ggml_backend_sched_eval_callback(computed)
    with _context(llama_cpp, path, max(map(len, sequences)), callback) as context:
        for tokens in sequences:
            context.run(tokens)
    return sums, counts


class _context:  # noqa: N801
    """A model in memory and one sequence; attention without rounding, so that only the order of sums differs."""

    def __init__(self, llama_cpp: ModuleType, path: Path, length: int, callback: Any) -> None:
        self.llama, self.silent = llama_cpp, llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silent, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = length
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cb_eval = callback
        self.pointer = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(length, 0, 1)
        assert self.model
        assert self.pointer

    def __enter__(self) -> _context:
        return self

    def __exit__(self, *_: object) -> None:
        self.llama.llama_batch_free(self.batch)
        self.llama.llama_free(self.pointer)
        self.llama.llama_model_free(self.model)
        self.llama.llama_log_set(self.llama._logger.llama_log_callback, ctypes.c_void_p(0))

    def run(self, tokens: Sequence[int]) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
            batch.logits[i] = True  # else the last block runs for the last token only
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.pointer), True)
        assert self.llama.llama_decode(self.pointer, batch) == 0
