"""How fast llama.cpp runs a GGUF file here: a process of its own, orders on stdin, a line of JSON for each repetition.

    prefill   one batch of `prompt` tokens; tokens / seconds
    decode    `generate` tokens, one after the other, from an empty cache; tokens / seconds

or, where batch sizes are asked for, several texts at once:

    decode    `generate` tokens for each of `batch` texts, a token of every text in each step; all tokens / seconds

These are the `pp` and `tg` tests of llama-bench, and the `TG` of llama-batched-bench: random tokens, no sampling, the
KV cache in float16, a run that is not counted first. Files take turns, repetition by repetition, so that a machine that
becomes slower becomes slower for all; each is mapped anew, and one is in memory at a time. Where the system lets it,
the process stays on as many cores as it has threads.

Reference: llama.cpp, tools/llama-bench/llama-bench.cpp (`test_prompt`, `test_gen`) and tools/batched-bench, release of
llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import time
from contextlib import suppress
from typing import Any


def main() -> None:
    """Read {"paths", "threads", "prompt", "generate", "repeats"}; say {"at", "prefill", "decode"} for each run.

    With "batches" as well, say {"at", "batch", "decode"} for each run and batch, and measure no prefill.
    """
    asked = json.loads(sys.stdin.readline())
    _pin(asked["threads"])
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda level, text, user_data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    for _ in range(asked["repeats"]):
        for at, path in enumerate(asked["paths"]):
            for batch in asked.get("batches", ()):
                rate = _batched(llama_cpp, path, asked["threads"], batch, asked["generate"])
                print(json.dumps({"at": at, "batch": batch, "decode": rate}), flush=True)
            if "batches" not in asked:
                prefill, decode = _rates(llama_cpp, path, asked["threads"], asked["prompt"], asked["generate"])
                print(json.dumps({"at": at, "prefill": prefill, "decode": decode}), flush=True)


def _pin(threads: int) -> None:
    """Stay on as many cores as there are threads; where that cannot be asked for, the system decides."""
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def _rates(llama: Any, path: str, threads: int, prompt: int, generate: int) -> tuple[float, float]:
    """(prefill, decode) in tokens a second."""
    model, context, vocab = _opened(llama, path, threads, max(prompt, generate) + 1, prompt)
    dice = random.Random(0)
    tokens = (llama.llama_token * prompt)(*(dice.randrange(vocab) for _ in range(prompt)))

    def run(count: int, each: int) -> float:
        """Seconds to run `count` tokens in batches of `each`, from an empty cache."""
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        began = time.perf_counter()
        for at in range(0, count, each):
            start = ctypes.cast(ctypes.byref(tokens, at % prompt * ctypes.sizeof(llama.llama_token)), type(one))
            if llama.llama_decode(context, llama.llama_batch_get_one(start, each)) != 0:
                sys.exit(f"llama.cpp cannot run {path}")
        return time.perf_counter() - began

    one = ctypes.pointer(llama.llama_token())
    run(prompt, prompt), run(2, 1)  # finds the pages, not counted
    rates = prompt / run(prompt, prompt), generate / run(generate, 1)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return rates


def _opened(llama: Any, path: str, threads: int, tokens: int, at_once: int, texts: int = 1) -> tuple[Any, Any, int]:
    """Model, context and size of the vocabulary; the context holds so many tokens of all texts together."""
    model = llama.llama_model_load_from_file(os.fsencode(path), llama.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    params = llama.llama_context_default_params()
    params.n_ctx = tokens
    params.n_batch = params.n_ubatch = at_once
    params.n_seq_max = texts
    params.kv_unified = True
    params.n_threads = params.n_threads_batch = threads
    context = llama.llama_init_from_model(model, params)
    if not context:
        sys.exit(f"llama.cpp has no memory for {path}")
    return model, context, llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))


def _batched(llama: Any, path: str, threads: int, batch: int, generate: int) -> float:
    """Tokens a second of all texts together."""
    model, context, vocab = _opened(llama, path, threads, batch * (generate + 2), max(batch, 8), batch)
    dice = random.Random(0)
    step = llama.llama_batch_init(batch, 0, 1)
    step.n_tokens = batch

    def run(count: int) -> float:
        """Seconds for `count` steps, from an empty cache."""
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        began = time.perf_counter()
        for at in range(count):
            for text in range(batch):
                step.token[text], step.pos[text] = dice.randrange(vocab), at
                step.n_seq_id[text], step.seq_id[text][0], step.logits[text] = 1, text, 1
            if llama.llama_decode(context, step) != 0:
                sys.exit(f"llama.cpp cannot run {path} with {batch} texts at once")
        return time.perf_counter() - began

    run(2)  # finds the pages, not counted
    rate = batch * generate / run(generate)
    llama.llama_batch_free(step)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return rate


if __name__ == "__main__":
    main()
