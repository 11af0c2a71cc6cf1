"""The logits of a GGUF model, computed by llama.cpp: an output for every position, as measuring needs it.

What differs from the same weights in PyTorch, and is therefore part of every figure measured here: products with
quantized weights first round the *activations* to 8 bits (blocks of 32 or 256), products with float16 weights round
them to float16. The row `f16` of `quantlab compare` shows how little the latter is. Attention is computed without
rounding (a float32 KV cache and no flash attention, which on a CPU sums in float16), although a server would not.

Reference: llama.h of llama-cpp-python 0.3.36: `llama_decode`, `llama_tokenize`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from quantlab.backends.llama_cpp_library import LOG, aside, library, threads
from quantlab.backends.workers import Workers
from quantlab.errors import QuantlabError

T = TypeVar("T")
U = TypeVar("U")

IN_FLIGHT_BYTES = 512 * 2**20  # of logits that are computed at the same time


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
        llama = self._library = library()
        with LOG.quiet():
            aside(llama.llama_backend_init)
            params = llama.llama_model_default_params()
            params.n_gpu_layers = 0  # the same arithmetic on every machine
            self._model = aside(llama.llama_model_load_from_file, os.fsencode(path), params)
            if not self._model:
                raise QuantlabError(f"llama.cpp could not load {path}: {LOG.reason()}")
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama.llama_vocab_n_tokens(self._vocab)
        count = max(1, min(threads(), IN_FLIGHT_BYTES // (4 * self.vocab_size * context)))
        try:
            for _ in range(count):
                self._states.append(_State(llama, self._model, context, max(1, threads() // count)))
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
        with LOG.quiet():
            while self._states:
                self._states.pop().close()
            if self._model:
                aside(self._library.llama_model_free, self._model)
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
        with LOG.quiet():
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
            raise QuantlabError(f"llama.cpp could not run {self._path} (status {status}): {LOG.reason()}")
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
        with LOG.quiet():
            self._pointer = aside(library.llama_init_from_model, model, params)
            if not self._pointer:
                raise QuantlabError(LOG.reason())
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
        aside(self._library.llama_free, self._pointer)
