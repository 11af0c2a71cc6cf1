"""The table of who runs what: complete, sourced, and what vLLM's and others' pages say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quantlab.errors import UsageError
from quantlab.plan.gpus import GPUS, gpu
from quantlab.plan.recipes import format_names
from quantlab.plan.support import (
    ENGINES,
    GENERATIONS,
    SUPPORT,
    How,
    family,
    formats_on,
    generation,
    how,
    how_on,
    runs_on,
    support,
    why_not,
)

# https://docs.vllm.ai, quantization, "Supported Hardware" and the FP8 page: Volta, Turing, Ampere, Ada, Hopper
VLLM = {
    "AWQ": "no weight weight weight weight",
    "GPTQ": "no weight weight weight weight",
    "INT8": "no native native native native",
    "FP8": "no weight weight native native",
    "NVFP4": "no weight weight weight weight",
    "MXFP4": "no no weight weight weight",
}


@pytest.mark.parametrize("fmt", VLLM)
def test_what_vllm_says(fmt: str) -> None:
    rows = runs_on("vLLM")[fmt]
    assert [way.value.split()[0] for way in rows.values()][:5] == VLLM[fmt].split()


def test_vllm_has_no_int8_on_blackwell() -> None:
    """docs.vllm.ai, llm_compressor/int8_w8a8: "not supported on compute capability >= 10.0"."""
    assert [way.value for way in runs_on("vLLM")["INT8"].values()] == ["no", *["native"] * 4, "no"]
    assert how_on("vLLM", "INT8", gpu("rtx-5090")) is How.NO


def test_blackwell_multiplies_four_bit_floats_and_nothing_else_does() -> None:
    for (engine, fmt), row in SUPPORT.items():
        if fmt in ("NVFP4", "MXFP4"):
            native = [name for name, capability in GENERATIONS.items() if row.on(capability) is How.NATIVE]
            assert native == ["Blackwell"], (engine, fmt)


def test_four_bit_integers_are_weight_only_everywhere() -> None:
    assert all(row.native is None for row in SUPPORT.values() if row.fmt in ("AWQ", "GPTQ", "GGUF", "NF4"))


def test_every_row_says_where_it_was_read() -> None:
    for row in SUPPORT.values():
        assert len(row.source) > 8
        assert row.native is None or row.weight_only is None or row.weight_only < row.native
        assert row.native or row.weight_only


NVIDIA = {name: card for name, card in GPUS.items() if card.maker == "NVIDIA"}


@pytest.mark.parametrize("card", NVIDIA.values(), ids=NVIDIA)
def test_every_card_of_the_planner_has_a_generation(card) -> None:
    name = generation(card.compute_capability)
    assert card.compute_capability >= GENERATIONS[name]
    assert how("vLLM", "AWQ", card.compute_capability) is (How.NO if name == "Volta" else How.WEIGHT_ONLY)


@pytest.mark.parametrize("card", NVIDIA.values(), ids=NVIDIA)
def test_what_vllm_runs_natively_the_card_multiplies(card) -> None:
    """The table of engines against the table of rates: two sources, one fact."""
    for fmt, dtype in (("FP8", "fp8"), ("NVFP4", "fp4"), ("INT8", "int8")):
        if how_on("vLLM", fmt, card) is How.NATIVE:
            assert card.rate(dtype), (card.name, fmt)


def test_other_hardware_by_name() -> None:
    assert how_on("llama.cpp", "GGUF", gpu("m4-max")) is How.WEIGHT_ONLY
    assert how_on("vLLM", "FP8", gpu("mi300x")) is How.NATIVE
    assert how_on("vLLM", "GPTQ", gpu("mi300x")) is How.NO
    assert how_on("vLLM", "INT8", gpu("cpu")) is How.NATIVE
    assert formats_on(gpu("a10"))["FP8"] is How.WEIGHT_ONLY
    with pytest.raises(UsageError, match="unknown engine"):
        formats_on(gpu("a10"), "oobabooga")


def test_every_format_of_the_planner_has_a_family_that_some_engine_knows() -> None:
    known = {row.fmt for row in SUPPORT.values()}
    for fmt in format_names():
        assert (family(fmt) is None) == (fmt in ("bf16", "fp16", "fp32")), fmt
        assert family(fmt) is None or family(fmt) in known


@pytest.mark.parametrize(
    ("fmt", "card", "words"),
    [
        ("awq_int4_g128", "v100-16", "does not run AWQ on V100 16 GB: take a GGUF file and llama.cpp"),
        ("int8", "b200", "take AWQ, GPTQ, FP8"),
        ("nvfp4", "mi300x", "does not run NVFP4 on MI300X: take FP8"),
        ("q4_k_m", "cpu", "run it with llama.cpp or Ollama"),
        ("mxfp4", "t4", "does not run MXFP4 on T4: take AWQ"),
    ],
)
def test_why_not_and_what_instead(fmt: str, card: str, words: str) -> None:
    assert words in why_not(fmt, gpu(card))


def test_what_runs_needs_no_excuse() -> None:
    for name in ("t4", "a100-80", "h100", "b200"):
        assert [why_not(fmt, gpu(name)) for fmt in ("bf16", "awq_int4_g128", "fp8_e4m3", "nvfp4")] == [""] * 4


def test_generations_rise() -> None:
    assert list(GENERATIONS.values()) == sorted(GENERATIONS.values())
    assert [generation(c) for c in ((7, 2), (8, 6), (8, 9), (9, 0), (12, 0))] == [
        "Volta", "Ampere", "Ada", "Hopper", "Blackwell",
    ]  # fmt: skip


def test_unknown_names_and_old_cards() -> None:
    assert support("llama.cpp", "AWQ") is None
    assert how("llama.cpp", "AWQ", (9, 0)) is How.NO
    with pytest.raises(UsageError, match="did you mean 'vLLM'"):
        support("vLMM", "AWQ")
    with pytest.raises(UsageError, match="unknown engine"):
        runs_on("oobabooga")
    with pytest.raises(UsageError, match="unknown generation 'Pascal'"):
        runs_on("vLLM", ["Pascal"])
    with pytest.raises(UsageError, match=r"6\.1 is older than Volta"):
        generation((6, 1))
    assert all(runs_on(engine) for engine in ENGINES)


def test_it_needs_the_standard_library_only() -> None:
    code = "import sys, quantlab.plan.support; print([m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
