"""The claims ledger: complete, computed, and its verdicts follow the inputs."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from click.testing import CliRunner

from quantlab.commands.claims import command
from quantlab.errors import UsageError
from quantlab.lesson.claims import CHECKS, SOURCES, check, check_all, claim, claims
from quantlab.lesson.ledger.verdicts import VERDICTS, Part, judge

LESSONS = {1: ("M", 13), 2: ("R", 8), 3: ("F", 15), 4: ("Q", 8), 5: ("S", 14)}

# what the computation says today; where it comes from is each claim's `how`
FOUND = {
    "M1": "holds if", "M2": "holds", "M3": "does not hold", "M4": "does not hold", "M5": "does not hold",
    "M6": "does not hold", "M7": "holds if", "M8": "holds if", "M9": "holds if", "M10": "holds", "M11": "does not hold",
    "M12": "holds if", "M13": "holds if",
    "R1": "holds", "R2": "does not hold", "R3": "holds if", "R4": "holds if", "R5": "holds if", "R6": "holds if",
    "R7": "holds", "R8": "holds if",
    "F1": "holds", "F2": "holds if", "F3": "does not hold", "F4": "holds if", "F5": "holds if", "F6": "holds if",
    "F7": "holds", "F8": "does not hold", "F9": "holds if", "F10": "holds if", "F11": "holds if", "F12": "holds if",
    "F13": "holds", "F14": "holds", "F15": "holds",
    "Q1": "holds if", "Q2": "does not hold", "Q3": "holds if", "Q4": "holds if", "Q5": "holds if",
    "Q6": "holds if", "Q7": "holds", "Q8": "holds",
    "S2": "does not hold", "S3": "does not hold", "S4": "holds if", "S5": "does not hold", "S6": "holds",
    "S10": "holds if", "S13": "holds", "S14": "holds", "S1": "holds if",
    "S7": "holds", "S8": "holds if", "S9": "does not hold", "S11": "holds if", "S12": "holds if",
}  # fmt: skip

# one change of an input for each check, and the verdict that must follow
FLIPPED: Mapping[str, tuple[dict[str, Any], str]] = {
    "M1": ({"checkpoints": {}}, "holds"),
    "M2": ({"gpu": "l4"}, "does not hold"),
    "M3": ({"model": "llama-3-8b"}, "holds"),
    "M4": ({"model": "llama-3-8b"}, "holds"),
    "M5": ({"says_gpu": "a100-40"}, "holds"),
    "M6": ({"memory_gb": 60}, "holds"),
    "M7": ({"says_usd": 1000}, "holds"),
    "M8": ({"says_band": [30, 75]}, "holds"),
    "M9": ({"tolerance": 1e-6, "batch": 1000}, "does not hold"),
    "M10": ({"fmt": "bf16"}, "does not hold"),
    "M11": ({"memory_gb": 200}, "holds"),
    "M12": ({"batches": [12], "contexts": [4096]}, "holds"),
    "M13": ({"tolerance": 0.2}, "holds"),
    "R1": ({"bits": 3}, "holds if"),
    "R2": ({"says_value": 0.723, "says_error": 0.1}, "holds"),
    "R3": ({"claimed_uneven": "fp4"}, "holds"),
    "R4": ({"sure": 1e6}, "holds"),
    "R5": ({"repaired": 0.01, "table": {}}, "holds"),
    "R6": ({"sure": 1e-9, "small_scale": 1.1, "large_scale": 1.25, "planted": 1.5}, "holds"),
    "R7": ({"sure": 1e6}, "holds if"),
    "R8": ({"significant_percent": 1}, "holds"),
    "F1": ({"planted": 1e-3}, "holds if"),
    "F2": ({"table": {}, "says_awq_percent": [50, 60], "says_gptq_percent": [50, 60]}, "does not hold"),
    "F4": ({"rows": [["GPTQ", ["Turing", "Ampere"], ["vLLM"]]], "only": []}, "holds"),
    "F5": ({"memory_gb": [8]}, "does not hold"),
    "F6": ({"engines": {}}, "holds"),
    "F7": ({"says_archived": "2024"}, "holds if"),
    "F8": ({"without_flag_reads": ""}, "holds if"),
    "F10": ({"groups": [256]}, "holds"),
    "F11": ({"sure": 1e6}, "does not hold"),
    "F12": ({"rows": [["llama-2-7b", "t4"]], "says_minutes": [500, 900]}, "does not hold"),
    "F15": ({"sure": 1e6}, "holds if"),
    "Q1": ({"sure": 1e6}, "holds"),
    "Q2": ({"sure": 1e6}, "holds"),
    "Q3": ({"questions": {"MMLU": 14042, "HumanEval": 16400}}, "holds"),
    "Q4": ({"says_ratio": 3.2}, "holds"),
    "Q5": ({"context": 128}, "holds"),
    "Q6": ({"kbit_per_s": [320, 160, 80, 42]}, "holds"),
    "Q7": ({"says_percent": 20, "fmt": "int3_g128"}, "holds if"),
    "Q8": ({"sure": 1e6}, "does not hold"),
    "S2": ({"memory_gb": 60}, "holds"),
    "S3": ({"concurrent": [1, 10], "output_tokens": 860}, "holds"),
    "S4": ({"rows": [[3.28, 1200, 0.759]]}, "holds"),
    "S5": ({"memory_gb": 200}, "holds"),
    "S6": ({"cards": [1, 1]}, "does not hold"),
    "S10": ({"says_users": 1000}, "does not hold"),
    "S13": ({"fmt": "bf16"}, "does not hold"),
    "S14": ({"batch": 1}, "holds if"),
    "S1": ({"says_ratio": [100, 200]}, "does not hold"),
    "S7": ({"shortest": 256}, "does not hold"),  # answers alike: a static batch has nothing to fill
    "S8": ({"says_ratio": 5}, "does not hold"),
    "S9": ({"sure": 1000}, "holds"),  # a margin so wide that nothing is worse
    "S11": ({"kv_bits": [16, 16]}, "does not hold"),
    "S12": ({"engines": ["vllm", "sglang"]}, "holds"),
}


def test_no_claim_is_missing() -> None:
    expected = [f"{letter}{n}" for letter, count in LESSONS.values() for n in range(1, count + 1)]
    assert list(claims()) == expected
    for entry in claims().values():
        assert LESSONS[entry.lesson][0] == entry.id[0]
        assert set(entry.source.split("+")) <= set(SOURCES)
        assert entry.statement.endswith(".")
        assert entry.source_names


def test_what_arithmetic_and_the_story_model_answer_is_answered_and_the_rest_is_open() -> None:
    answers = {answer.claim.id: answer for answer in check_all()}
    assert {i: a.verdict for i, a in answers.items() if a.verdict != "open"} == FOUND
    assert set(CHECKS) == set(FOUND)
    for answer in answers.values():
        assert answer.verdict in VERDICTS
        assert (answer.figure is None) == (answer.verdict == "open")
        assert answer.verdict != "open" or answer.how == f"lesson {answer.claim.lesson}"


@pytest.mark.parametrize("claim_id", FLIPPED)
def test_another_input_gives_another_verdict(claim_id: str) -> None:
    changed, verdict = FLIPPED[claim_id]
    assert check(claim_id, **changed).verdict == verdict != FOUND[claim_id]


def test_a_fictional_200_gb_card_flips_m6() -> None:
    answer = check("M6", memory_gb=200)
    assert answer.verdict == "holds if"  # it fits in 4 bits now, but no longer only in 4 bits
    assert "fits 1 x A10 (184.0 GB at 92%)" in answer.how
    assert check("M6").verdict == "does not hold"  # nothing was remembered


@pytest.mark.parametrize(
    ("claim_id", "figure"),
    [
        ("M1", "141.1 GB, 70.6 GB, 35.3 GB"),
        ("M2", "37,680 tokens of KV cache left"),
        ("M4", "2.0 on the RTX 4090, 2.9 on the RTX 5090"),
        ("M5", "8 x A100 40 GB at $32.77"),
        ("M6", "32 / 0.6 = 53.3"),
        ("M9", "7B 13.5 -> 3.9, 13B 26.0 -> 7.2, 34B 67.5 -> 18.3, 70B 141.1 -> 39.8, 405B 811.7 -> 217.1"),
        ("M11", "1.66 times"),
        ("M12", "320 KiB a token: 10 GB is 30,518 tokens, 30 GB is 91,553"),
        ("M13", "awq_int4_g128 4.156, nvfp4 4.5, mxfp4 4.25"),
        ("Q3", "HumanEval -2.8%, 2 ± 5.0 points"),
        ("S4", "0.759, 0.253, 0.517, 0.345, 0.076"),
        ("S6", "3.00 times cheaper"),
    ],
)
def test_figures(claim_id: str, figure: str) -> None:
    assert figure in str(check(claim_id).figure)


def test_the_verdict_is_read_off_the_parts() -> None:
    right, wrong, fatal = Part("a", True), Part("b", False), Part("c", False, essential=True)
    assert judge([right]) == "holds"
    assert judge([right, wrong]) == "holds if"
    assert judge([wrong]) == "does not hold"
    assert judge([right, fatal]) == "does not hold"


def test_no_verdict_is_typed_into_the_ledger() -> None:
    from quantlab.lesson.ledger import (
        cited,
        contests,
        curve,
        finetuning,
        fitting,
        loading,
        measured,
        money,
        rounding,
        running,
        speed,
        tables,
    )

    modules = (
        cited, contests, curve, finetuning, fitting, loading, measured, money, rounding, running, speed, tables,
    )  # fmt: skip
    for path in (module.__file__ for module in modules):
        with open(path, encoding="utf-8") as file:
            assert not re.search(r"HOLDS|\"(holds( if)?|does not hold)\"|judge", file.read())
    assert all("verdict" not in entry.inputs for entry in claims().values())


@pytest.mark.parametrize(
    ("claim_id", "changed", "message"),
    [
        ("M99", {}, "unknown claim 'M99'"),
        ("M6", {"memory": 200}, "unknown input of M6 'memory'; did you mean 'memory_gb'"),
        ("M6", {"memory_gb": -24}, "memory_gb of M6 must be a number above 0, it is -24"),
        ("M6", {"memory_gb": "lots"}, "memory_gb"),
        ("M6", {"usd_small": 0}, "usd_small"),
        ("M6", {"usd_small": float("inf")}, "usd_small"),
        ("M6", {"gpu": "a11"}, "unknown GPU 'a11'; did you mean 'a10'"),
        ("M6", {"wider": "bf16"}, "wider of M6 must be like"),
        ("M1", {"model": "llama-3-7b"}, r"did you mean 'llama-[23]-\d+b'"),
        ("M4", {"budget_usd": 10}, "give a larger budget_usd"),
        ("M2", {"utilization": 3}, "utilization must be a number from 0.01 to 1"),
        ("M12", {"batches": [-8]}, "batch must be a whole number"),
        ("M7", {"model": "llama-3.1-405b", "fmt": "fp32", "usd_each": {"t4": [500]}}, "does not fit on 64 x T4"),
    ],
)
def test_absurd_inputs_are_refused(claim_id: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(claim_id, **changed)


def test_claims_are_found_in_any_spelling() -> None:
    assert claim(" m6 ") is claims()["M6"]


def test_command_prints_json_for_programs() -> None:
    rows = json.loads(CliRunner().invoke(command, ["--json"]).stdout)
    assert len(rows) == len(claims())
    assert all(list(row) == ["id", "source", "lesson", "verdict", "figure", "how"] for row in rows)
    one = json.loads(CliRunner().invoke(command, ["m6", "--json"]).stdout)
    assert one == next(row for row in rows if row["id"] == "M6")


def test_command_prints_a_table_and_one_claim() -> None:
    table = CliRunner().invoke(command, []).stdout
    assert "The claims ledger" in table
    assert all(f" {claim_id} " in table for claim_id in claims())
    one = CliRunner().invoke(command, ["M6"]).stdout
    assert "does not hold" in one
    assert "a five-concept lesson" in one


def test_an_unknown_claim_ends_in_one_sentence(run_cli: Callable[..., Any]) -> None:
    run_cli("claims", "M0").must_say(2, "unknown claim 'M0'")
