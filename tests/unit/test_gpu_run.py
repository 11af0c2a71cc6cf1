"""The run that was kept of a GPU: the plan agrees with what vLLM said there, and the figures hang together."""

from __future__ import annotations

import pytest

from quantlab.lesson import gpu_run
from quantlab.plan.gpus import GIB
from quantlab.plan.memory import kv_bytes_per_token, weights_bytes
from quantlab.plan.roofline import decode


@pytest.mark.parametrize("fmt", gpu_run.formats())
def test_the_plan_is_what_vllm_said(fmt: str) -> None:
    said = gpu_run.said(fmt)
    assert said.weights_gib is not None
    assert said.bytes_per_token is not None
    assert said.weights_gib * GIB == pytest.approx(weights_bytes(gpu_run.MODEL, gpu_run.planned(fmt)), rel=0.01)
    assert said.bytes_per_token == pytest.approx(kv_bytes_per_token(gpu_run.MODEL), rel=5e-4)  # two decimals of GiB


@pytest.mark.parametrize("fmt", gpu_run.formats())
def test_nothing_was_faster_than_the_roof(fmt: str) -> None:
    for batch, ms in gpu_run.step_ms(fmt).items():
        assert ms / 1e3 > decode(gpu_run.MODEL, gpu_run.planned(fmt), gpu_run.CARD, batch, 192).seconds


def test_every_request_was_answered() -> None:
    for fmt in gpu_run.formats():
        assert all(not errors for row in gpu_run.kept()["vllm"][fmt]["rows"] for errors in row["errors"])
    assert set(gpu_run.vllm("bf16")) >= set(gpu_run.generate())


def test_the_kernel_is_held_against_what_the_card_reads() -> None:
    for row in gpu_run.kernel():
        assert 0 < row["roof"] < 1
        assert row["w4a16_us"] < row["fp16_us"]
