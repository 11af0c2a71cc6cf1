"""vLLM's memory lines, as its servers print them: on a GPU, on several, and the CPU build's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantlab.plan.memory import kv_bytes_per_token, tokens_in
from quantlab.serve.vllm_log import Said, parse, read

GPU = """\
(EngineCore pid=1) INFO 11-26 10:00:01 [gpu_model_runner.py:2392] Model loading took 14.9889 GiB memory and 2.9 seconds
(EngineCore pid=1) INFO 11-26 10:00:40 [gpu_worker.py:298] Available KV cache memory: 11.47 GiB
(EngineCore pid=1) INFO 11-26 10:00:40 [kv_cache_utils.py:1087] GPU KV cache size: 83,488 tokens
(EngineCore pid=1) INFO 11-26 10:00:40 [kv_cache_utils.py:1091] Maximum concurrency for 40,960 tokens per request: 2.04x
"""
# made of the format strings in vLLM 0.32's source
QUANTIZED = """\
(EngineCore pid=1) INFO 11-26 10:00:00 [core.py:109] Initializing a V1 LLM engine (v0.32.0) with config: model='m', \
dtype=torch.bfloat16, quantization=compressed-tensors, enforce_eager=False, quantization_config=None, seed=0
(EngineCore pid=1) INFO 11-26 10:00:01 [wNa16.py:138] Using MarlinLinearKernel for CompressedTensorsWNA16
"""
PLAIN = "Initializing a V1 LLM engine (v0.32.0) with config: model='m', quantization=None, quantization_config=None"
CPU = """\
(Worker pid=7678) INFO 11-26 17:56:38 [cpu_worker.py:260] Explicitly set (1.0/12.59) GiB for KV cache on node 0.
(EngineCore pid=7665) INFO 11-26 17:56:38 [kv_cache_utils.py:2327] CPU KV cache size: 524,288 tokens, Maximum \
concurrency for 512 tokens per request: 1024.00x
"""


def test_a_gpus_lines() -> None:
    assert parse(GPU) == Said(14.9889, 11.47, 83_488)
    # 11.47 is rounded: so many GiB hold within 0.1% of what the planner says they hold
    assert parse(GPU).kv_tokens == pytest.approx(tokens_in(11.47 * 2**30, "qwen3-4b"), rel=1e-3)


def test_the_cpu_builds_lines_agree_with_the_planner_to_the_byte(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(CPU, encoding="utf-8")
    said = read(tmp_path / "log")
    assert said == Said(None, 1.0, 524_288)
    assert said.bytes_per_token == kv_bytes_per_token("tiny")


def test_method_and_kernel_in_words() -> None:
    said = parse(QUANTIZED + GPU)
    assert (said.method, said.kernel) == ("compressed-tensors", "MarlinLinearKernel")
    words = said.words(planned_weights=round(14.9 * 2**30))
    assert words.startswith("read as compressed-tensors, multiplied by MarlinLinearKernel; weights 14.99 GiB (+0.6%")
    assert words.endswith("room for 83,488 tokens")
    assert parse(PLAIN + CPU).words() == "read as 16 bits, not quantized; room for 524,288 tokens"
    assert Said().words() == ""


def test_the_last_of_several_workers_counts_and_silence_is_none() -> None:
    assert parse(GPU + GPU.replace("11.47", "11.40")).kv_gib == 11.40
    assert parse("nothing of memory") == Said()
    assert Said().bytes_per_token is None
