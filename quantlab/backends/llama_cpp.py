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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from quantlab.atomic import new_file, require_space
from quantlab.backends.workers import Workers
from quantlab.errors import QuantlabError, unknown

T = TypeVar("T")
U = TypeVar("U")

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
IN_FLIGHT_BYTES = 512 * 2**20  # of logits that are computed at the same time


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


def _aside(function: Callable[..., U], *args: Any) -> U:
    """function(*args) in a thread of its own, waited for even when an interrupt arrives meanwhile.

    Python runs signal handlers in the main thread only, also within a callback from C, where what they raise is lost:
    so nothing that may call back runs there.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # an interrupt while a thread starts would leave it unknown to the pool
        return pool.submit(function, *args).result()


class _Log:
    """llama.cpp's chatter, kept in a list instead of on the terminal while anything here is running.

    The callback is never freed, since C may still hold it.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=60)
        self._lock = Lock()
        self._users = 0
        self._callback: Any = None

    def _keep(self, level: int, text: bytes, user_data: Any) -> None:
        self.lines.append(text.decode("utf-8", "replace"))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing is printed within; may be nested and used by several threads."""
        library = _library()
        with self._lock:
            if self._users == 0:
                self._callback = self._callback or library.llama_log_callback(self._keep)
                library.llama_log_set(self._callback, ctypes.c_void_p(0))
                self.lines.clear()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    library.llama_log_set(library._logger.llama_log_callback, ctypes.c_void_p(0))

    def reason(self) -> str:
        """The last line that looks like a reason."""
        lines = [line.strip() for line in "".join(self.lines).splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
        return (told or lines or ["no reason given"])[-1]


_LOG = _Log()


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
    with new_file(target) as temporary, _LOG.quiet():
        if _aside(library.llama_model_quantize, os.fsencode(source), os.fsencode(temporary), params) != 0:
            raise QuantlabError(f"llama.cpp could not quantize {source} to {ftype}: {_LOG.reason()}")
    return target


class Logits:
    """The logits of a GGUF model for sequences of token ids; close it, or use it in a `with` block.

    context: the longest sequence. Each sequence is computed by one thread; the weights are in memory once.

    >>> with Logits(Path("model.gguf"), context=512) as logits:     # doctest: +SKIP
    ...     next(logits([[0, 17, 42]])).shape
    torch.Size([3, 4096])
    """

    def __init__(self, path: Path, context: int) -> None:
        self._path, self._context = path, context
        self._states: list[_State] = []
        self._workers: Workers[_State] | None = None
        library = self._library = _library()
        with _LOG.quiet():
            _aside(library.llama_backend_init)
            params = library.llama_model_default_params()
            params.n_gpu_layers = 0  # the same arithmetic on every machine
            self._model = _aside(library.llama_model_load_from_file, os.fsencode(path), params)
            if not self._model:
                raise QuantlabError(f"llama.cpp could not load {path}: {_LOG.reason()}")
        self._vocab = library.llama_model_get_vocab(self._model)
        self.vocab_size: int = library.llama_vocab_n_tokens(self._vocab)
        count = max(1, min(threads(), IN_FLIGHT_BYTES // (4 * self.vocab_size * context)))
        try:
            for _ in range(count):
                self._states.append(_State(library, self._model, context, max(1, threads() // count)))
        except QuantlabError as error:
            self.close()
            raise QuantlabError(f"llama.cpp could not prepare {path} for {context} tokens: {error}") from error
        self._workers = Workers(self._states)

    def __enter__(self) -> Logits:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back, once no thread uses it; may be called twice."""
        if self._workers is not None:
            self._workers.close()
        with _LOG.quiet():
            while self._states:
                self._states.pop().close()
            if self._model:
                _aside(self._library.llama_model_free, self._model)
        self._model = None

    def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
        """For each sequence of t token ids its logits [t, vocab], float32; each sequence starts afresh."""
        yield from self._each(self._run, sequences)

    def forks(self, forks: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], /) -> Iterator[list[Tensor]]:
        """For each (start, ends), and each of its ends of t ids, the logits [t, vocab] that predict the end."""
        yield from self._each(self._fork, forks)

    def _each(self, run: Callable[[_State, T], U], items: Sequence[T]) -> Iterator[U]:
        if self._workers is None or not self._model:
            raise ValueError(f"{self._path} was closed; open it again")
        with _LOG.quiet():
            yield from self._workers.in_order(run, items)

    def _run(self, state: _State, tokens: Sequence[int]) -> Tensor:
        self._check(tokens)
        return self._decode(state, tokens, 0)

    def _fork(self, state: _State, fork: tuple[Sequence[int], Sequence[Sequence[int]]]) -> list[Tensor]:
        start, ends = fork
        for end in ends:
            self._check([*start, *end])
        first = self._decode(state, start, 0)[-1:]
        return [torch.cat([first, self._decode(state, end, len(start))[:-1]]) for end in ends]

    def _check(self, tokens: Sequence[int]) -> None:
        if not 0 < len(tokens) <= self._context:
            raise ValueError(f"a sequence must have from 1 to {self._context} tokens, got {len(tokens)}; cut it first")
        if wrong := [token for token in tokens if not 0 <= token < self.vocab_size]:
            raise ValueError(f"token {wrong[0]} is not one of {self.vocab_size}; use this model's own tokenizer")

    def _decode(self, state: _State, tokens: Sequence[int], at: int) -> Tensor:
        status = state.decode(tokens, at)
        if status != 0:
            raise QuantlabError(f"llama.cpp could not run {self._path} (status {status}): {_LOG.reason()}")
        return state.logits(len(tokens), self.vocab_size)

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Token ids as llama.cpp itself cuts the text, without BOS; `special` reads `<|end|>` as one token."""
        raw = text.encode("utf-8")
        room = len(raw) + 1  # no token is shorter than a byte
        ids = (self._library.llama_token * room)()
        count = self._library.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, special)
        assert count >= 0, "there are never more tokens than bytes"
        return list(ids[:count])


class _State:
    """One sequence in the making: its KV cache, its batch, its threads."""

    def __init__(self, library: Any, model: Any, context: int, count: int) -> None:
        self._library = library
        params = library.llama_context_default_params()
        params.n_ctx = params.n_batch = context
        params.n_ubatch = min(context, 512)
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = count
        params.offload_kqv = params.op_offload = False
        params.type_k = params.type_v = library.GGML_TYPE_F32
        params.flash_attn_type = library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        with _LOG.quiet():
            self._pointer = _aside(library.llama_init_from_model, model, params)
            if not self._pointer:
                raise QuantlabError(_LOG.reason())
        self._batch = library.llama_batch_init(context, 0, 1)

    def decode(self, tokens: Sequence[int], at: int) -> int:
        """Run the tokens from position `at`, where what came before it stays; 0 when it went well."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, at + i, 1, 0
            batch.logits[i] = True
        self._library.llama_memory_seq_rm(self._library.llama_get_memory(self._pointer), 0, at, -1)
        return int(self._library.llama_decode(self._pointer, batch))

    def logits(self, count: int, vocab: int) -> Tensor:
        """A copy of what `decode` left behind, [count, vocab]."""
        values = self._library.llama_get_logits(self._pointer)
        flat = (ctypes.c_float * (count * vocab)).from_address(ctypes.addressof(values.contents))
        return torch.frombuffer(flat, dtype=torch.float32).reshape(count, vocab).clone()

    def close(self) -> None:
        self._library.llama_batch_free(self._batch)
        _aside(self._library.llama_free, self._pointer)
