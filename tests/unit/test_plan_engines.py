"""The engine model, splits over GPUs, and every published log: predicted against printed."""

from dataclasses import replace

import pytest

from quantlab.errors import UsageError
from quantlab.plan.engines import ENGINES, LOGIT_BYTES, engine, engine_for, layer_bytes, sampling_bytes
from quantlab.plan.gpus import gpu
from quantlab.plan.memory import GIB, kv_cache_bytes, weights_by_kind, weights_bytes
from quantlab.plan.models import MODELS, shape_of
from quantlab.plan.published import LLAMA_CPP_COMPUTE_MIB, LLAMA_CPP_KV_MIB, LOGS, ServerLog
from quantlab.plan.shapes import ModelShape
from quantlab.plan.spellings import KV_BITS, check_kv, format_called, kv_called
from quantlab.plan.split import kv_on_one, weights_on_one, why_not_split

IDS = [log.source for log in LOGS]


def shape_in(log: ServerLog) -> ModelShape:
    return replace(shape_of(log.model), tied=False) if log.untied else shape_of(log.model)


@pytest.mark.parametrize("log", [log for log in LOGS if log.weights], ids=lambda log: log.source)
def test_weights_are_those_of_the_log(log: ServerLog) -> None:
    assert weights_on_one(shape_in(log), log.fmt, log.gpus) / GIB == pytest.approx(log.weights, rel=0.01)


@pytest.mark.parametrize("log", [log for log in LOGS if log.tokens], ids=lambda log: log.source)
def test_the_tokens_of_the_log_fill_its_cache(log: ServerLog) -> None:
    assert log.tokens is not None
    nbytes = kv_on_one(shape_in(log), log.gpus, log.tokens, 1, KV_BITS[log.kv_dtype], block=16)
    assert nbytes / GIB == pytest.approx(log.kv, abs=0.0055)  # "7.71" is rounded, and a begun block is left out


@pytest.mark.parametrize("log", [log for log in LOGS if log.activations], ids=lambda log: log.source)
def test_activations_are_met_within_eleven_percent(log: ServerLog) -> None:
    predicted = ENGINES["vLLM"].activations(shape_in(log), log.gpus) / GIB
    assert predicted == pytest.approx(log.activations, rel=0.11)


@pytest.mark.parametrize("log", [log for log in LOGS if not log.unlike], ids=lambda log: log.source)
def test_what_is_left_for_the_cache_is_met_within_an_eighth_of_a_gib(log: ServerLog) -> None:
    assert log.total is not None
    assert log.utilization is not None
    shape = shape_in(log)
    beside = weights_on_one(shape, log.fmt, log.gpus) + ENGINES["vLLM"].overhead(shape, log.gpus)
    assert log.total * log.utilization - beside / GIB == pytest.approx(log.kv, abs=0.125)


def test_the_bytes_of_a_logit_are_the_median_of_the_logs() -> None:
    found = sorted(log.activations * GIB / (256 * shape_of(log.model).vocab) for log in LOGS if log.activations)
    assert found[len(found) // 2] == pytest.approx(LOGIT_BYTES, rel=0.02)
    assert (round(found[0], 1), round(found[-1], 1)) == (34.8, 41.2)


def test_llama_cpp_is_exact_on_its_own_log() -> None:
    for model, mib in LLAMA_CPP_COMPUTE_MIB.items():
        assert ENGINES["llama.cpp"].activations(shape_of(model)) == mib * 2**20
    for (model, tokens), mib in LLAMA_CPP_KV_MIB.items():
        assert kv_cache_bytes(model, tokens) == mib * 2**20


def test_a_large_card_takes_larger_steps_but_an_a100_does_not() -> None:
    vllm, shape = engine("vllm"), shape_of("llama-3.1-8b")
    assert vllm.step(gpu("a10")) == vllm.step(gpu("a100-80")) == vllm.step(None) == (256, 2048)
    assert vllm.step(gpu("h100")) == (1024, 8192)
    assert vllm.activations(shape, card=gpu("h100")) == sampling_bytes(shape, 1024)
    assert vllm.activations(shape, texts=700) == sampling_bytes(shape, 700)


def test_a_wide_model_with_a_small_vocabulary_is_bounded_by_a_layer() -> None:
    wide = replace(shape_of("llama-2-70b"), intermediate=200_000)
    assert ENGINES["vLLM"].activations(wide) == layer_bytes(wide, 2048) > sampling_bytes(wide, 256)
    assert layer_bytes(wide, 2048, gpus=4) < layer_bytes(wide, 2048)
    assert layer_bytes(shape_of("mixtral-8x7b"), 100) == 2 * 100 * (4 * 4096 + 2 * (3 * 14336 + 4096))


def test_who_runs_what() -> None:
    assert engine_for("bf16", gpu("m4-max")).name == "transformers"
    assert engine_for("q8_0", gpu("m4-max")).name == engine_for("q8_0").name == "llama.cpp"
    with pytest.raises(UsageError, match=r"did you mean 'llama\.cpp'"):
        engine("llamacpp")


# ------------------------------------------------------------------------------------------- several GPUs
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "phi-4-mini", "gemma-3-27b"])
def test_one_gpu_holds_the_whole_and_two_hold_little_more(model: str) -> None:
    shape = MODELS[model]
    whole = weights_bytes(shape, "bf16")
    assert weights_on_one(shape, "bf16", 1) == whole
    twice = 2 * weights_on_one(shape, "bf16", 2) - whole  # norms and routers are on both
    assert 0 < twice < 0.001 * whole


def test_more_gpus_than_kv_heads_hold_copies() -> None:
    shape = MODELS["qwen3-235b-a22b"]  # 4 KV heads
    cache = kv_cache_bytes(shape, 4096)
    assert [kv_on_one(shape, n, 4096, 1, 16) * n // cache for n in (1, 2, 4, 8, 16)] == [1, 1, 1, 2, 4]
    four, eight = (weights_on_one(shape, "bf16", n) for n in (4, 8))
    keys_and_values = shape.layers * 2 * 2 * shape.hidden * shape.head_dim  # of one KV head, in 16 bits
    assert eight - keys_and_values == pytest.approx((four - keys_and_values) / 2, rel=0.001)


def test_latent_attention_is_whole_on_every_gpu() -> None:
    shape = MODELS["deepseek-v3"]
    assert kv_on_one(shape, 8, 4096, 2, 16) == kv_cache_bytes(shape, 4096, 2)
    compressed = shape.layers * 2 * (1536 + 576) * 7168  # q_a and kv_a
    kinds = weights_by_kind(shape, "bf16")
    whole = compressed + kinds["router"] + kinds["norm"]
    assert weights_on_one(shape, "bf16", 8) == whole + (weights_bytes(shape, "bf16") - whole) / 8


@pytest.mark.parametrize(
    ("model", "fmt", "gpus", "reason"),
    [
        ("llama-3.3-70b", "awq_int4_g128", 8, ""),
        ("llama-3.3-70b", "awq_int4_g128", 3, "64 attention heads do not divide by 3 GPUs"),
        ("qwen2.5-72b", "bf16", 2, ""),
        ("qwen2.5-72b", "gptq_int4_g128", 4, "29,568 columns of down_proj do not divide into 4 parts of whole groups"),
        ("phi-4", "bf16", 4, "10 KV heads and 4 GPUs do not divide"),
        ("smollm2-135m", "bf16", 2, "9 attention heads"),
    ],
)
def test_not_every_number_of_gpus_goes(model: str, fmt: str, gpus: int, reason: str) -> None:
    said = why_not_split(shape_of(model), fmt, gpus)
    assert (reason in said) if reason else (said == "")


# ------------------------------------------------------------------------------------------- spellings
@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("awq-int4", "awq_int4_g128"), ("AWQ", "awq_int4_g128"), ("gptq-int4", "gptq_int4_g128"),
        ("fp8", "fp8_e4m3_channel"), ("nf4", "nf4"), ("q4_k_m", "q4_k_m"), ("Q4_K_M", "q4_k_m"), ("int8", "int8"),
        ("bfloat16", "bf16"), ("LLM.int8", "llm_int8"), (" w4a16 ", "int4_g128"), ("awq-int4-g64", "awq_int4_g64"),
    ],
)  # fmt: skip
def test_formats_are_spelled_as_people_do(spelled: str, name: str) -> None:
    assert format_called(spelled) == name


def test_unknown_spellings_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown format 'nvpf4'; did you mean 'nvfp4'"):
        format_called("nvpf4")
    with pytest.raises(UsageError, match="unknown type of KV cache 'fp9'; did you mean 'fp8'"):
        kv_called("fp9")
    with pytest.raises(UsageError, match=r"q8_0 is a KV cache of llama\.cpp"):
        check_kv("q8_0", "vLLM")
    with pytest.raises(UsageError, match=r"llama\.cpp has no fp8 KV cache; take q8_0"):
        check_kv("fp8", "llama.cpp")
