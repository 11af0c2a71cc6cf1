"""Memory plans: published sizes and server logs reproduced, inverse questions, and absurd numbers refused."""

import math
import time
from typing import Any

import pytest

from quantlab.errors import UsageError
from quantlab.plan.gpus import GPUS, gpu, instance
from quantlab.plan.memory import (
    GB,
    GIB,
    OVERHEAD_BYTES,
    VLLM_UTILIZATION,
    fits,
    free_bytes,
    gpus_that_fit,
    kv_bytes_per_token,
    kv_cache_bytes,
    longest_context,
    max_batch,
    max_context,
    max_tokens,
    memory,
    nominal_bytes,
    tokens_in,
    weights_by_kind,
    weights_bytes,
)
from quantlab.plan.models import MODELS, shape_of
from quantlab.plan.published import KV_KIB, LLAMA_CPP_README
from quantlab.plan.recipes import format_names, layout_of


@pytest.mark.parametrize(("model", "kib"), KV_KIB.items())
def test_kv_bytes_of_a_token(model: str, kib: int) -> None:
    assert kv_bytes_per_token(model) == kib * 1024
    assert kv_bytes_per_token(model, kv_bits=8) == kib * 512


@pytest.mark.parametrize(("model", "every"), [("gemma-2-9b", 2), ("gemma-3-27b", 6), ("gemma-3-1b", 6)])
def test_windows_in_some_layers_bound_the_cache_of_those(model: str, every: int) -> None:
    shape, window = shape_of(model), shape_of(model).window
    assert window is not None
    one = shape.kv_numbers * 2
    full = shape.layers // every
    assert kv_cache_bytes(model, window) == window * shape.layers * one
    assert kv_cache_bytes(model, 4 * window) == one * window * (4 * full + shape.layers - full)


def test_deepseek_caches_one_vector_for_all_heads() -> None:
    deepseek, llama = kv_bytes_per_token("deepseek-v3"), kv_bytes_per_token("llama-3.1-405b")
    assert deepseek == 61 * (512 + 64) * 2
    assert llama / deepseek == pytest.approx(7.34, abs=0.01)


def test_the_cache_is_rounded_up_to_whole_blocks() -> None:
    assert kv_cache_bytes("llama-3-8b", 17, 3, block=16) == kv_cache_bytes("llama-3-8b", 32, 3)
    assert kv_cache_bytes("mistral-7b", 10_000, block=48) == kv_cache_bytes("llama-3.1-8b", 4128)
    assert kv_cache_bytes("llama-3-8b", 1024, kv_bits=8.5) == kv_cache_bytes("llama-3-8b", 1024) * 17 // 32


@pytest.mark.parametrize("model", ["gemma-3-27b", "gemma-2-9b", "mistral-7b", "llama-3.1-8b"])
def test_the_longest_context_is_the_longest(model: str) -> None:
    shape = shape_of(model)
    for gib in (0.01, 0.3, 0.7, 3, 400):
        longest = longest_context(shape, round(gib * GIB))
        assert longest % 16 == 0
        assert longest == 0 or kv_cache_bytes(shape, longest, block=16) <= gib * GIB
        assert longest == shape.context or kv_cache_bytes(shape, longest + 16, block=16) > gib * GIB


def test_a_sliding_window_bounds_the_cache() -> None:
    assert memory("mistral-7b", "bf16", 32768).kv_bytes == memory("mistral-7b", "bf16", 4096).kv_bytes
    assert memory("llama-3.1-8b", "bf16", 32768).kv_bytes == 8 * memory("mistral-7b", "bf16", 4096).kv_bytes


@pytest.mark.parametrize(("fmt", "bits", "gib"), [(fmt, *row) for fmt, row in LLAMA_CPP_README.items()])
def test_gguf_file_types_have_the_published_sizes(fmt: str, bits: float, gib: float) -> None:
    plan = memory("llama-3.1-8b", fmt, 1)
    assert plan.bits_per_weight == pytest.approx(bits, abs=6e-4 if fmt == "fp16" else 5e-5)
    assert plan.weights_bytes / GIB == pytest.approx(gib, abs=0.006)


def test_rows_of_576_fall_back_to_blocks_of_32() -> None:
    smol = shape_of("smollm2-135m")
    names = {t.role: layout_of(t, smol, "q4_k_m").name for t in smol.tensors() if t.layer == 15}
    assert (names["q_proj"], names["down_proj"], names["input_layernorm"]) == ("q5_0", "q4_k", "fp32")
    assert layout_of(smol.tensors()[0], smol, "q4_k_m").name == "q8_0"  # tied: the embedding is the output head


def test_70b_value_projections_get_more_bits_for_next_to_nothing() -> None:
    values = {t.layer: t for t in shape_of("llama-3-70b").tensors() if t.role == "v_proj"}
    assert layout_of(values[11], shape_of("llama-3-70b"), "q4_k_m").name == "q5_k"
    values = {t.layer: t for t in shape_of("llama-3-8b").tensors() if t.role == "v_proj"}
    assert layout_of(values[5], shape_of("llama-3-8b"), "q4_k_m").name == "q4_k"


# vLLM's page on the quantized KV cache: Qwen3-4B on an L4, 11.47 GiB for the KV cache
@pytest.mark.parametrize(("kv_bits", "formula", "logged"), [(16, 83_521, 83_488), (8, 167_043, 166_992)])
def test_vllm_counts_the_same_tokens(kv_bits: int, formula: int, logged: int) -> None:
    assert tokens_in(11.47 * GIB, "qwen3-4b", kv_bits, block=1) == formula
    # "11.47" is rounded: the logged count, whole blocks of 16, lies between what 11.465 and 11.475 GiB hold
    assert tokens_in(11.465 * GIB, "qwen3-4b", kv_bits) <= logged <= tokens_in(11.475 * GIB, "qwen3-4b", kv_bits)
    assert logged % 16 == 0


def test_vllm_issue_13882_closes() -> None:
    weights = weights_bytes("qwen2.5-7b", "awq_int4_g128") / GIB
    assert weights == pytest.approx(5.2032, rel=0.004)  # "Loading model weights took 5.2032 GB", which are GiB
    assert 8.00 * 0.70 - weights - 0.03 - 1.42 == pytest.approx(-1.05, abs=0.02)
    assert pytest.approx((0.03 + 1.42) * GIB, abs=1) == OVERHEAD_BYTES


def test_the_overhead_assumption_covers_vllms_l4_log() -> None:
    left = gpu("l4").memory_gib * VLLM_UTILIZATION - weights_bytes("qwen3-4b", "bf16") / GIB - 11.47
    assert 1.2 < left < OVERHEAD_BYTES / GIB


def test_a_real_awq_checkpoint_is_not_half_a_byte_a_parameter() -> None:
    shape = shape_of("llama-3-70b")
    kinds = weights_by_kind("llama-3-70b", "awq_int4_g128")
    assert kinds["embedding"] == kinds["lm_head"] == 128256 * 8192 * 2
    assert kinds["attention"] + kinds["mlp"] == shape.linear_parameters * 4.15625 / 8
    assert sum(kinds.values()) / GB == pytest.approx(39.77, abs=0.01)
    assert nominal_bytes(shape.parameters, 4) / GB == pytest.approx(35.28, abs=0.01)


@pytest.mark.parametrize("fmt", format_names())
@pytest.mark.parametrize("model", ["qwen2.5-7b", "phi-4-mini", "smollm2-135m", "mixtral-8x7b", "tiny"])
def test_the_shortcut_for_equal_blocks_counts_every_tensor(model: str, fmt: str) -> None:
    shape = shape_of(model)
    one_by_one = 0
    for tensor in shape.tensors():
        columns = tensor.shape[-1]
        rows = math.prod(tensor.shape[:-1])
        one_by_one += tensor.copies * layout_of(tensor, shape, fmt).matrix_bytes(rows, columns)
    assert weights_bytes(model, fmt) == one_by_one


def test_embeddings_can_be_given_another_format() -> None:
    saved = weights_bytes("llama-3-8b", "int4_g128") - weights_bytes("llama-3-8b", "int4_g128", embeddings="int8")
    assert saved == 2 * 128256 * (4096 - 4)  # one byte a weight less, a float32 scale a row more


def test_bf16_is_two_bytes_a_parameter_for_every_model() -> None:
    for name, shape in MODELS.items():
        assert weights_bytes(name, "bf16") == 2 * shape.parameters


def test_the_terms_add_up() -> None:
    plan = memory("llama-3-70b", "awq_int4_g128", 4096, batch=8, gpus=2)
    assert sum(plan.terms().values()) == plan.total_bytes == plan.weights_bytes + plan.kv_bytes + plan.overhead_bytes
    assert plan.kv_bytes == 8 * 4096 * 320 * 1024
    assert plan.overhead_bytes == 2 * OVERHEAD_BYTES


def test_every_format_makes_a_plan_and_fewer_bits_take_fewer_bytes() -> None:
    sizes = {fmt: memory("llama-3-8b", fmt, 512).weights_bytes for fmt in format_names()}
    by_size = sorted(("bf16", "int8", "int4_g32", "int4_g128", "int3_g128", "int2_g128"), key=sizes.__getitem__)
    assert by_size == ["int2_g128", "int3_g128", "int4_g128", "int4_g32", "int8", "bf16"]


def test_fits_is_where_nothing_is_left() -> None:
    plan = memory("llama-3-8b", "bf16", 8192)
    card = gpu("l4")
    assert fits(plan, card) == (free_bytes(plan, card) >= 0) is True
    assert not fits(plan, card, utilization=0.5)
    holding = gpus_that_fit(memory("llama-3-70b", "awq_int4_g128", 4096))
    assert holding[0].name == "l40s"
    assert {"a100-80", "h100", "h200", "b200"} < {c.name for c in holding}
    assert not {"t4", "a10", "l4", "rtx-4090", "a100-40"} & {c.name for c in holding}
    assert [c.memory_bytes for c in holding] == sorted(c.memory_bytes for c in holding)


@pytest.mark.parametrize("kv_bits", [16, 8])
def test_the_longest_context_fits_and_one_block_more_does_not(kv_bits: int) -> None:
    tokens = max_context("llama-3.1-8b", "bf16", "l4", kv_bits=kv_bits)
    assert fits(memory("llama-3.1-8b", "bf16", tokens, kv_bits=kv_bits), "l4")
    assert not fits(memory("llama-3.1-8b", "bf16", tokens + 16, kv_bits=kv_bits), "l4")


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    most = max_batch("llama-3-8b", "int4_g128", "a10", 4096)
    assert fits(memory("llama-3-8b", "int4_g128", 4096, most), "a10")
    assert not fits(memory("llama-3-8b", "int4_g128", 4096, most + 1), "a10")


def test_max_context_stops_at_the_model_and_a_window_frees_it() -> None:
    assert max_context("llama-3-8b", "int4_g128", "h200") == 8192
    assert max_context("mistral-7b", "int4_g128", "t4") == 32768  # only 4,096 tokens stay in memory
    assert max_context("llama-3.1-8b", "int4_g128", "t4") < 131072


def test_what_does_not_fit_leaves_no_tokens() -> None:
    assert max_tokens("llama-3-70b", "awq_int4_g128", "a10") == 0
    assert max_tokens("llama-3-70b", "awq_int4_g128", "a10", gpus=2) > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"context": 0}, "context must be a whole number from 1"),
        ({"context": -4096}, "context"),
        ({"context": 4096.5}, "context"),
        ({"context": 10**12}, "context"),
        ({"batch": 0}, "batch"),
        ({"batch": True}, "batch"),
        ({"gpus": -1}, "gpus"),
        ({"kv_bits": 0}, "kv_bits must be a number from 1 to 32"),
        ({"kv_bits": float("nan")}, "kv_bits"),
        ({"overhead_bytes": -1}, "overhead_bytes"),
        ({"fmt": "int4-g128"}, "unknown format 'int4-g128'; did you mean 'int4_g128'"),
        ({"embeddings": "bf61"}, "did you mean 'bf16'"),
        ({"model": "lama-3-70b"}, "did you mean 'llama-3-70b'"),
    ],
)
def test_absurd_requests_are_refused(changed: dict[str, Any], message: str) -> None:
    request = {"model": "llama-3-70b", "fmt": "int4_g128", "context": 4096, **changed}
    with pytest.raises(UsageError, match=message):
        memory(**request)


@pytest.mark.parametrize("utilization", [0, -0.5, 1.5, "all"])
def test_absurd_shares_are_refused(utilization: Any) -> None:
    with pytest.raises(UsageError, match="utilization"):
        fits(memory("llama-3-8b", "bf16", 1), "l4", utilization)


@pytest.mark.parametrize("bits", [0, -4, float("inf")])
def test_absurd_bits_are_refused(bits: float) -> None:
    with pytest.raises(UsageError, match="bits"):
        nominal_bytes(10**9, bits)


def test_gpu_names_are_forgiving() -> None:
    for spelling in ("RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", "4090", "rtx_4090"):
        assert gpu(spelling).name == "rtx-4090"
    assert gpu("A100 80GB").name == "a100-80"
    with pytest.raises(UsageError, match="unknown GPU 'h1000'; did you mean 'h100'"):
        gpu("H1000")
    with pytest.raises(UsageError, match=r"did you mean 'p4d\.24xlarge'"):
        instance("p4d.24")


def test_gpu_memory_grows_from_usable_to_driver_and_every_price_is_dated() -> None:
    for card in GPUS.values():
        assert card.memory_bytes <= card.driver_mib * 2**20 <= card.advertised_gb * GIB * 1.02
        assert card.memory_bytes > 0.9 * card.advertised_gb * GB
        for price in (card.price_per_hour, card.list_price):
            assert price is None or (price.usd > 0 and len(price.date) == 7 and price.source)


def test_an_explorer_can_redraw_on_every_move() -> None:
    memory("llama-3.1-405b", "q4_k_m", 1)  # the first plan counts the tensors (5 ms); every further one is arithmetic
    took = []
    for step in range(100):
        start = time.perf_counter()
        gpus_that_fit(memory("llama-3.1-405b", "q4_k_m", 4096 + step, batch=step + 1))
        took.append(time.perf_counter() - start)
    assert sorted(took)[50] < 0.001
