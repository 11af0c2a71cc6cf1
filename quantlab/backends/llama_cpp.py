"""llama.cpp, through llama-cpp-python's bindings: quantize a GGUF file, and ask it for logits.

Only what measuring needs, on the C interface itself: `llama_model_quantize`, `llama_decode` with an output for every
position, `llama_tokenize`. Serving is a process of its own (quantlab.serve).

What differs from the same weights in PyTorch, and is therefore part of every figure measured here: products with
quantized weights first round the *activations* to 8 bits (blocks of 32 or 256), products with float16 weights round
them to float16. The row `f16` of `quantlab compare` shows how little the latter is. Attention is computed without
rounding (a float32 KV cache and no flash attention, which on a CPU sums in float16), although a server would not.

Reference: llama.h of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from quantlab.atomic import new_file, require_space
from quantlab.errors import QuantlabError, unknown

# our name -> llama.cpp's LLAMA_FTYPE_..., a mixture of tensor types; those that need an importance matrix are left out
FTYPES = {
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q6_k": "MOSTLY_Q6_K",
    "q5_k_m": "MOSTLY_Q5_K_M",
    "q5_k_s": "MOSTLY_Q5_K_S",
    "q5_1": "MOSTLY_Q5_1",
    "q5_0": "MOSTLY_Q5_0",
    "q4_k_m": "MOSTLY_Q4_K_M",
    "q4_k_s": "MOSTLY_Q4_K_S",
    "q4_1": "MOSTLY_Q4_1",
    "q4_0": "MOSTLY_Q4_0",
    "iq4_nl": "MOSTLY_IQ4_NL",
    "iq4_xs": "MOSTLY_IQ4_XS",
    "q3_k_l": "MOSTLY_Q3_K_L",
    "q3_k_m": "MOSTLY_Q3_K_M",
    "q3_k_s": "MOSTLY_Q3_K_S",
    "q2_k": "MOSTLY_Q2_K",
}


def available() -> str | None:
    """None when llama.cpp can be used, else the sentence that says why not and how to get it."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed; with a C++ compiler: pip install 'quantlab[llamacpp]'"
    try:
        import llama_cpp  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        again = "pip install --force-reinstall --no-deps llama-cpp-python"
        return f"llama-cpp-python cannot be loaded ({error}); build it again: {again}"
    return None


def _library() -> Any:
    if (problem := available()) is not None:
        raise QuantlabError(problem)
    import llama_cpp

    return llama_cpp


@contextmanager
def _quiet(lines: int = 40) -> Iterator[deque[str]]:
    """Keep llama.cpp's chatter in a list instead of on the terminal; an interrupt during it is raised afterwards.

    Python cannot raise through a C function: a KeyboardInterrupt that arrives while the callback runs would be lost.
    """
    library = _library()
    log: deque[str] = deque(maxlen=lines)
    interrupts: list[KeyboardInterrupt] = []

    @library.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, user_data: Any) -> None:
        try:
            log.append(text.decode("utf-8", "replace"))
        except KeyboardInterrupt as interrupt:
            interrupts.append(interrupt)

    library.llama_log_set(keep, ctypes.c_void_p(0))
    try:
        yield log
    finally:
        library.llama_log_set(library._logger.llama_log_callback, ctypes.c_void_p(0))
    if interrupts:
        raise interrupts[0]


def _reason(log: deque[str]) -> str:
    """The last lines of the log that look like the reason, as one line."""
    lines = [line.strip() for line in "".join(log).splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
    return (told or lines or ["no reason given"])[-1]


def threads() -> int:
    """As many threads as torch would use: one setting (OMP_NUM_THREADS) for both."""
    return torch.get_num_threads()


def quantize_gguf(source: Path, target: Path, ftype: str) -> Path:
    """Quantize a GGUF file into `target`, whole or not at all, with llama.cpp's own code.

    `ftype` is one of FTYPES. A tensor whose rows do not divide into the type's blocks gets another type: read what was
    really used with `quantlab.checkpoints.gguf_read.tensors`.
    """
    if ftype not in FTYPES:
        raise unknown("llama.cpp format", ftype, FTYPES)
    library = _library()
    params = library.llama_model_quantize_default_params()
    params.ftype = getattr(library, f"LLAMA_FTYPE_{FTYPES[ftype]}")
    params.nthread = threads()
    require_space(target.parent, source.stat().st_size, f"quantizing to {ftype}")  # no type is larger than its source
    with new_file(target) as temporary, _quiet() as log:
        if library.llama_model_quantize(os.fsencode(source), os.fsencode(temporary), params) != 0:
            raise QuantlabError(f"llama.cpp could not quantize {source} to {ftype}: {_reason(log)}")
    return target


class Logits:
    """The logits of a GGUF model for sequences of token ids.

    >>> with Logits(Path("model.gguf"), context=512) as logits:     # doctest: +SKIP
    ...     next(logits([[0, 17, 42]])).shape
    torch.Size([3, 4096])
    """

    def __init__(self, path: Path, context: int) -> None:
        self._path, self._context = path, context
        self._model: Any = None
        self._state: Any = None
        library = self._library = _library()
        model_params = library.llama_model_default_params()
        params = library.llama_context_default_params()
        params.n_ctx = params.n_batch = context
        params.n_ubatch = min(context, 512)
        params.n_seq_max = 1
        params.type_k = params.type_v = library.GGML_TYPE_F32
        params.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_threads = params.n_threads_batch = threads()
        with _quiet() as log:
            library.llama_backend_init()
            self._model = library.llama_model_load_from_file(os.fsencode(path), model_params)
            if not self._model:
                raise QuantlabError(f"llama.cpp could not load {path}: {_reason(log)}")
            self._state = library.llama_init_from_model(self._model, params)
        if not self._state:
            self.close()
            raise QuantlabError(f"llama.cpp could not prepare {path} for {context} tokens: {_reason(log)}")
        self._vocab = library.llama_model_get_vocab(self._model)
        self.vocab_size: int = library.llama_vocab_n_tokens(self._vocab)
        self._batch = library.llama_batch_init(context, 0, 1)

    def __enter__(self) -> Logits:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back; may be called twice."""
        with _quiet():
            if self._state:
                self._library.llama_batch_free(self._batch)
                self._library.llama_free(self._state)
            if self._model:
                self._library.llama_model_free(self._model)
        self._state = self._model = None

    def __call__(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """For each sequence of t token ids its logits [t, vocab], float32; each sequence starts afresh."""
        for tokens in sequences:
            yield self._decode(tokens)

    def _decode(self, tokens: Sequence[int]) -> Tensor:
        count = len(tokens)
        if not 0 < count <= self._context:
            raise ValueError(f"a sequence must have from 1 to {self._context} tokens, got {count}; cut it first")
        batch = self._batch
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, True
        self._library.llama_memory_clear(self._library.llama_get_memory(self._state), True)
        with _quiet() as log:
            status = self._library.llama_decode(self._state, batch)
        if status != 0:
            raise QuantlabError(f"llama.cpp could not run {self._path} (status {status}): {_reason(log)}")
        values = self._library.llama_get_logits(self._state)
        flat = (ctypes.c_float * (count * self.vocab_size)).from_address(ctypes.addressof(values.contents))
        return torch.frombuffer(flat, dtype=torch.float32).reshape(count, self.vocab_size).clone()

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Token ids as llama.cpp itself cuts the text, without BOS; `special` reads `<|end|>` as one token."""
        raw = text.encode("utf-8")
        room = len(raw) + 1  # no token is shorter than a byte
        ids = (self._library.llama_token * room)()
        count = self._library.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, special)
        assert count >= 0, "there are never more tokens than bytes"
        return list(ids[:count])
