"""The roofline: its limits, published ratios, the crossover against brute force, and what published speeds imply."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from quantlab.errors import UsageError
from quantlab.plan.gpus import GPUS, gpu
from quantlab.plan.memory import GIB, VLLM_UTILIZATION, kv_bytes_per_token, max_batch, weights_by_kind, weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.roofline import NATIVE, decode, decode_work, prefill, prefill_work, roof
from quantlab.plan.speed import crossover, fit, implied_batch

# llama.cpp's tools/quantize/README.md, Llama-3.1-8B: bits a weight, GiB, tokens a second generated
LLAMA_CPP = {"q4_k_m": (4.58, 71.93), "q8_0": (7.95, 50.93), "fp16": (14.96, 29.17)}


def test_a_token_reads_every_weight_but_the_embedding() -> None:
    for name in ("llama-3.1-8b", "smollm2-135m"):  # the second has a tied output head, which is read
        kinds = weights_by_kind(name, "bf16")
        skipped = kinds["embedding"] if "lm_head" in kinds else 0
        assert decode_work(name, "bf16", 1, 1).weight_bytes == sum(kinds.values()) - skipped


def test_operations_are_two_for_each_weight_that_is_multiplied() -> None:
    shape = shape_of("llama-3.1-8b")
    work = decode_work(shape, "bf16", 1, 1)
    head = shape.vocab * shape.hidden
    assert work.matrix_operations == 2 * shape.linear_parameters
    assert work.head_operations == 2 * head
    assert decode_work(shape, "awq_int4_g128", 7, 1).matrix_operations == 7 * 2 * shape.linear_parameters


def test_attention_grows_with_context_and_batch_and_a_window_ends_it() -> None:
    one = decode_work("llama-3.1-8b", "bf16", 1, 1024)
    assert one.kv_bytes == 1024 * kv_bytes_per_token("llama-3.1-8b")
    assert one.attention_operations == 4 * 32 * 32 * 128 * 1024  # layers x heads x head_dim x tokens
    assert decode_work("llama-3.1-8b", "bf16", 3, 2048).kv_bytes == 6 * one.kv_bytes
    assert decode_work("llama-3.1-8b", "bf16", 1, 1024, kv_bits=8).kv_bytes == one.kv_bytes / 2
    long, longer = (decode_work("mistral-7b", "bf16", 1, context) for context in (8192, 32768))
    assert (long.kv_bytes, long.attention_operations) == (longer.kv_bytes, longer.attention_operations)


def test_prefill_is_decoding_many_tokens_without_their_output_heads() -> None:
    one, many = decode_work("llama-3.1-8b", "bf16", 1, 1), prefill_work("llama-3.1-8b", "bf16", 512)
    assert many.matrix_operations == 512 * one.matrix_operations
    assert many.head_operations == one.head_operations
    assert many.weight_bytes == one.weight_bytes
    looked_at = sum(decode_work("llama-3.1-8b", "bf16", 1, context).attention_operations for context in range(1, 513))
    assert many.attention_operations == pytest.approx(looked_at, rel=1 / 256)


def test_at_batch_1_time_is_bytes_over_bandwidth() -> None:
    for card in GPUS.values():
        step = decode("llama-3.1-8b", "bf16", card, 1, 1)
        work = step.work
        assert step.bound == "memory"
        assert step.seconds == pytest.approx((work.weight_bytes + work.kv_bytes) / card.bandwidth)


def test_a_large_batch_waits_for_arithmetic_at_the_rate_of_its_type() -> None:
    h100 = gpu("h100")
    for fmt, dtype in (("bf16", "16 bits"), ("awq_int4_g128", "16 bits"), ("fp8_e4m3", "fp8"), ("int8", "int8")):
        step = decode("llama-3.1-8b", fmt, h100, 4096, 1)
        rate = h100.rate_16 if dtype == "16 bits" else h100.rate(dtype)
        assert (step.bound, step.dtype) == ("compute", dtype)
        assert step.multiply_s == step.work.matrix_operations / rate + step.work.head_operations / h100.rate_16


def test_fp8_is_weight_only_where_the_card_does_not_multiply_it() -> None:
    assert roof("a100-80", "fp8_e4m3").rate == gpu("a100-80").rate_16
    assert roof("b200", "nvfp4").rate == gpu("b200").rate("fp4")
    assert roof("h100", "nvfp4").rate == gpu("h100").rate_16
    assert roof("t4", "bf16").rate == 65e12  # in fp16


def test_two_cards_halve_every_time_and_efficiency_stretches_it() -> None:
    one = decode("llama-3-70b", "bf16", "a100-80", 8, 512)
    assert decode("llama-3-70b", "bf16", "a100-80", 8, 512, gpus=2).seconds == pytest.approx(one.seconds / 2)
    assert decode("llama-3-70b", "bf16", "a100-80", 8, 512, efficiency=0.5).seconds == pytest.approx(2 * one.seconds)


@pytest.mark.parametrize("fmt", ["bf16", "awq_int4_g128", "fp8_e4m3", "q4_k_m"])
@pytest.mark.parametrize("card", ["t4", "a100-80", "h100", "m2-ultra"])
def test_speed_rises_with_the_batch_and_falls_with_the_context(fmt: str, card: str) -> None:
    by_batch = [decode("llama-3.1-8b", fmt, card, batch, 512).tokens_per_s for batch in range(1, 600, 7)]
    assert all(later >= before * (1 - 1e-12) for before, later in pairwise(by_batch))
    by_context = [decode("llama-3.1-8b", fmt, card, 16, context).tokens_per_s for context in range(1, 9000, 500)]
    assert all(later < before for before, later in pairwise(by_context))


def test_a_mixture_reads_few_experts_for_one_text_and_all_of_them_for_many() -> None:
    shape = shape_of("mixtral-8x7b")
    kinds = weights_by_kind(shape, "bf16")
    rest = sum(nbytes for kind, nbytes in kinds.items() if kind not in ("experts", "embedding"))
    assert decode_work(shape, "bf16", 1, 1).weight_bytes == pytest.approx(rest + kinds["experts"] * 2 / 8)
    assert decode_work(shape, "bf16", 2, 1).weight_bytes == pytest.approx(rest + kinds["experts"] * (1 - (6 / 8) ** 2))
    assert decode_work(shape, "bf16", 500, 1).weight_bytes == pytest.approx(rest + kinds["experts"])
    active = decode_work(shape, "bf16", 1, 1)
    multiplied = (active.matrix_operations + active.head_operations) / 2
    assert multiplied == pytest.approx(shape.active_parameters - shape.vocab * shape.hidden, rel=1e-3)


# ------------------------------------------------------------------------------------------- published figures
def test_marlins_ideal_gain_on_an_a10() -> None:
    """README of IST-DASLab/marlin: 3.87 = 16 / 4.125, up to batches of 16 to 32; there is no output head in it."""
    kinds = {fmt: weights_by_kind("llama-2-7b", fmt) for fmt in ("fp16", "gptq_int4_g128", "int4_g128")}
    layers = {fmt: kind["attention"] + kind["mlp"] for fmt, kind in kinds.items()}
    assert layers["fp16"] / layers["int4_g128"] == pytest.approx(16 / 4.125, rel=1e-3)
    assert round(16 / 4.125, 2) == 3.88  # which the README cuts to 3.87
    whole = crossover("llama-2-7b", "int4_g128", "fp16", "a10")
    assert 3.4 < whole.ratio < 16 / 4.125  # the whole model, with its output head in 16 bits
    assert 32 < whole.full_until < 100  # "less than 25-50 multiply-accumulates per 4-bit weight" keeps the gain


def test_llama_cpp_is_3_27_times_smaller_but_2_47_times_faster() -> None:
    (small_gib, fast), (large_gib, slow) = LLAMA_CPP["q4_k_m"], LLAMA_CPP["fp16"]
    assert large_gib / small_gib == pytest.approx(3.27, abs=0.005)
    assert fast / slow == pytest.approx(2.47, abs=0.005)
    bound = [decode("llama-3.1-8b", fmt, "rtx-4090", 1, 128).tokens_per_s for fmt in ("fp16", "q4_k_m")]
    assert bound[1] / bound[0] == pytest.approx(3.24, abs=0.02)  # no roofline loses a quarter of it: overhead does


def test_what_is_lost_is_a_time_for_each_token_and_unpacking() -> None:
    points = {fmt: (gib * GIB, speed) for fmt, (gib, speed) in LLAMA_CPP.items()}
    line = fit([points["q8_0"], points["fp16"]])  # both are read without much unpacking
    assert line.overhead_s == pytest.approx(3.0e-3, rel=0.02)
    assert line.bandwidth / 1e9 == pytest.approx(514, rel=0.01)
    assert line.tokens_per_s(points["q4_k_m"][0]) == pytest.approx(79.4, abs=0.1)  # it reaches 71.93: unpacking
    for fmt in ("q8_0", "fp16"):
        assert line.tokens_per_s(points[fmt][0]) == pytest.approx(points[fmt][1])


def test_q5_70b_on_a100s() -> None:
    """Claim Q5: 1,200 tokens/s of 70B in BF16 on two A100 80 GB, 1,800 with AWQ on one."""
    two = implied_batch(1200, "llama-3-70b", "bf16", "a100-80", 512, gpus=2)
    assert two == 44
    assert two <= max_batch("llama-3-70b", "bf16", "a100-80", 512, gpus=2, utilization=VLLM_UTILIZATION)
    one = implied_batch(1800, "llama-3-70b", "awq_int4_g128", "a100-80", 512)
    assert one == 40  # with texts of 512 tokens, and everything at its data sheet's rate
    assert implied_batch(1800, "llama-3-70b", "awq_int4_g128", "a100-80", 1024) is None  # twice as long: impossible
    assert implied_batch(1800, "llama-3-70b", "awq_int4_g128", "a100-80", 512, efficiency=0.8) is None
    limit = gpu("a100-80").rate_16 / (decode_work("llama-3-70b", "awq_int4_g128", 1, 1).matrix_operations)
    assert 1800 / limit > 0.75  # three quarters of the data sheet's arithmetic, with no attention at all


def test_q5_8b_on_a_4090() -> None:
    """Claim Q5: 1,500 tokens/s of 8B in BF16 and 2,400 with AWQ on an RTX 4090."""
    assert implied_batch(1500, "llama-3-8b", "bf16", "rtx-4090", 512) == 25
    assert implied_batch(2400, "llama-3-8b", "awq_int4_g128", "rtx-4090", 512) == 14
    assert max_batch("llama-3-8b", "bf16", "rtx-4090", 512, utilization=VLLM_UTILIZATION) > 25


def test_s14_a_7b_model_at_batch_256_gains_nothing() -> None:
    gains = {
        batch: decode("llama-2-7b", "awq_int4_g128", "rtx-4090", batch, 256).tokens_per_s
        / decode("llama-2-7b", "bf16", "rtx-4090", batch, 256).tokens_per_s
        for batch in (1, 256)
    }
    assert gains[1] > 3
    assert gains[256] == 1


# ------------------------------------------------------------------------------------------- the crossover
PAIRS = [
    (card, small, large)
    for card in ("t4", "a10", "a100-80", "h100", "rtx-4090", "b200", "mi300x")
    for small, large in (("gptq_int4_g128", "bf16"), ("gptq_int4_g128", "fp8_e4m3"), ("nf4", "int8"))
]


def matrices_s(fmt: str, card: str, batch: int) -> float:
    step = decode("llama-3.1-8b", fmt, card, batch, 1)
    return max(step.read_weights_s, step.multiply_s)


@pytest.mark.parametrize(("card", "small", "large"), PAIRS)
def test_the_crossover_is_where_brute_force_finds_it(card: str, small: str, large: str) -> None:
    exact = crossover("llama-3.1-8b", small, large, card)
    assert exact.none_from is not None
    loses = next(b for b in range(1, 5000) if matrices_s(small, card, b) >= matrices_s(large, card, b) * (1 - 1e-12))
    assert loses == math.ceil(exact.none_from - 1e-9)
    slower = next(b for b in range(1, 5000) if decode("llama-3.1-8b", small, card, b, 1).bound == "compute")
    assert slower - 1 == math.floor(exact.full_until)
    assert exact.ratio == pytest.approx(matrices_s(large, card, 1) / matrices_s(small, card, 1))


def test_beside_fp8_the_gain_ends_at_half_the_batch_and_turns_into_a_loss() -> None:
    sixteen, eight = (crossover("llama-3.1-8b", "gptq_int4_g128", fmt, "h100") for fmt in ("bf16", "fp8_e4m3"))
    assert sixteen.none_from is not None
    assert eight.none_from is not None
    assert 0.5 < eight.none_from / sixteen.none_from < 0.55  # a little more than half: the output heads are alike
    past = math.ceil(sixteen.none_from)
    assert matrices_s("gptq_int4_g128", "h100", past) > 1.5 * matrices_s("fp8_e4m3", "h100", past)


def test_four_bits_that_the_card_multiplies_never_lose() -> None:
    assert crossover("llama-3.1-8b", "nvfp4", "bf16", "b200").none_from is None
    assert crossover("llama-3.1-8b", "nvfp4", "bf16", "h100").none_from is not None


def test_more_cards_do_not_move_the_crossover() -> None:
    one, two = (crossover("llama-3-70b", "gptq_int4_g128", "bf16", "a100-80", gpus=n) for n in (1, 2))
    assert one.none_from == pytest.approx(two.none_from)


@pytest.mark.parametrize("wanted", [1, 50, 500, 1500, 5000])
@pytest.mark.parametrize(("model", "context"), [("llama-3.1-8b", 1), ("llama-3.1-8b", 2048), ("mixtral-8x7b", 512)])
def test_the_implied_batch_is_the_smallest_that_reaches_it(wanted: float, model: str, context: int) -> None:
    batch = implied_batch(wanted, model, "bf16", "h100", context)
    speeds = [decode(model, "bf16", "h100", b, context).tokens_per_s for b in range(1, 1200)]
    found = next((b for b, speed in enumerate(speeds, start=1) if speed >= wanted * (1 - 1e-9)), None)
    assert batch == found


# ------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode("llama-3-8b", "bf16", "h100", 0), "batch must be a whole number from 1"),
        (lambda: decode("llama-3-8b", "bf16", "h100", True), "batch"),
        (lambda: decode("llama-3-8b", "bf16", "h100", 1, -5), "context"),
        (lambda: decode("llama-3-8b", "bf16", "h100", gpus=0), "gpus"),
        (lambda: decode("llama-3-8b", "bf16", "h100", efficiency=1.5), "efficiency must be a number from 0.001 to 1"),
        (lambda: decode("llama-3-8b", "bf61", "h100"), "did you mean 'bf16'"),
        (lambda: decode("llama-3-8b", "bf16", "cpu"), "bandwidth of this CPU .* is not known; measure it"),
        (lambda: prefill("llama-3-8b", "bf16", "h100", 0), "prompt"),
        (lambda: crossover("llama-3-8b", "bf16", "nf4", "h100"), "name the smaller format first"),
        (lambda: crossover("mixtral-8x7b", "nf4", "bf16", "h100"), "is a mixture of experts"),
        (lambda: implied_batch(0, "llama-3-8b", "bf16", "h100"), "tokens_per_s"),
        (lambda: implied_batch(float("nan"), "llama-3-8b", "bf16", "h100"), "tokens_per_s"),
        (lambda: fit([(1e9, 10), (1e9, 12)]), "at least two different sizes"),
        (lambda: fit([(1e9, 10), (2e9, 30)]), "not slower"),
    ],
)
def test_absurd_questions_are_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_a_measured_cpu_has_a_bound_once_its_rate_is_given() -> None:
    cpu = replace(gpu("cpu"), bandwidth=20e9)
    with pytest.raises(UsageError, match="rate of this CPU"):
        decode("smollm2-135m", "q8_0", cpu)
    step = decode("smollm2-135m", "q8_0", replace(cpu, rates=(("fp16", 1e11),)), 1, 1)
    assert step.seconds == pytest.approx(weights_bytes("smollm2-135m", "q8_0") / 20e9, rel=0.01)


def test_every_native_format_is_one_that_the_planner_knows() -> None:
    from quantlab.plan.recipes import check_format

    assert [check_format(fmt) for fmt in NATIVE] == list(NATIVE)
