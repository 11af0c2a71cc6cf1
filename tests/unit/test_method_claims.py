"""What the claims of lesson 3 rest on, and that absurd inputs are refused."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from quantlab.errors import UsageError
from quantlab.lesson import claims
from quantlab.lesson.claims import check, claim
from quantlab.lesson.ledger import cited, finetuning
from quantlab.lesson.ledger.running import working_bytes
from quantlab.lesson.ledger.verdicts import NotHereError
from quantlab.plan.memory import GB


@pytest.mark.parametrize(
    ("claim_id", "words"),
    [
        ("F1", ("of the codes depend on H", "NF4: no statistics")),
        ("F2", ("by AWQ", "by GPTQ", "±")),
        ("F3", ("times as long as GPTQ here",)),
        ("F4", ("statements agree with the table", "FP8 also weight only on Turing", "native on Ada")),
        ("F5", ("q4_k_m 11.", "GPTQModel runs GPTQ on Apple GPU")),
        ("F6", ("vLLM: loads it as it is", "TensorRT-LLM: its conversion script")),
        ("F7", ("AutoAWQ is officially deprecated", "known by 2025-05-12")),
        ("F8", ("vLLM 0.33.0 reads quantization_config.quant_method",)),
        ("F9", ("SGLang: reads the method from config.json", "Model Optimizer")),
        ("F10", ("if groups of 256 are believed", "quantlab verify catches 3 of 3")),
        ("F11", ("GPTQ on stories", "on Python code", "±")),
        ("F12", ("llama-3-70b 1", "block by block", "published: BLOOM-7.1B 10 min")),
        ("F13", ("it ran", "Python code of its own, which is refused")),
        ("F14", ("original in NF4", "merged, then awq")),
        ("F15", ("by nf4", "by AWQ", "the loss falls by")),
    ],
)
def test_figures(claim_id: str, words: tuple[str, ...]) -> None:
    answer = check(claim_id)
    assert all(word in str(answer.figure) for word in words), answer.figure
    assert "Right: " in answer.how or "Not right: " in answer.how


@pytest.mark.parametrize("claim_id", ["F2", "F11", "F14", "F15"])
def test_what_is_measured_says_how_sure_it_is(claim_id: str) -> None:
    assert "±" in check(claim_id).how


@pytest.mark.parametrize(
    ("claim_id", "changed", "message"),
    [
        ("F1", {"fmt": "int4_g129"}, "unknown format 'int4_g129'"),
        ("F2", {"fmts": "int4_g32"}, "fmts of F2 must be like"),
        ("F4", {"rows": [["AWQ", ["Ada"], ["vLMM"]]]}, "unknown engine 'vLMM'"),
        ("F5", {"share": 2}, "share must be above 0 and at most 1"),
        ("F5", {"model": "llama-2-14b"}, "did you mean 'llama-2-13b'"),
        ("F10", {"stored": -1}, "stored of F10 must be a number above 0"),
        ("F12", {"rows": [["llama-2-7b", "rtx-4091"]]}, "did you mean 'rtx-4090'"),
        ("F14", {"steps": 2.5}, "steps must be a whole number from 3"),
    ],
)
def test_absurd_inputs_of_lesson_3_are_refused(claim_id: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        check(claim_id, **changed)


def test_every_input_is_used() -> None:
    for number in range(1, 16):
        assert claim(f"F{number}").inputs


def test_one_block_is_enough_for_a_large_model() -> None:
    """Claim F12's arithmetic: weights of one block of 80, and H of the widest inputs in float32."""
    whole, block = (working_bytes("llama-3-70b", 128, 2048, one) for one in (False, True))
    assert 145 * GB < whole < 165 * GB
    assert 4 * 28672**2 < block < 24 * GB


def test_a_missing_library_leaves_its_claims_open(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    with monkeypatch.context() as without:
        without.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "awq" else found(name, *more))
        for claim_id in ("F6", "F7", "F8"):
            answer = check(claim_id)
            assert (answer.verdict, answer.figure) == ("open", None)
            assert answer.how == cited.NO_AUTOAWQ
    monkeypatch.setattr("quantlab.finetune.qlora.available", lambda: "peft is not installed")
    finetuning.stages.cache_clear()
    assert check("F14").how == "peft is not installed"
    with pytest.raises(NotHereError):
        claims.CHECKS["F14"](**claim("F14").inputs)
