"""The drills: solutions pass, each wrong answer gets its own diagnosis, and the published bugs are what was seen."""

from __future__ import annotations

import ast
import importlib
import re
from typing import Any

import pytest

from quantlab.lesson import catalog
from quantlab.lesson.drills import BROKEN_CALCULATORS, DRILLS, WRONG_NUMBERS
from quantlab.lesson.message import Kind
from quantlab.plan.gpus import gpu
from quantlab.plan.memory import GIB, kv_bytes_per_token
from quantlab.plan.models import shape_of

MODULES = {name: importlib.import_module(f"quantlab.lesson.drills.{name}") for name in DRILLS}
MISLABELLED = DRILLS["mislabelled"].answer
WRONG = [(name, index) for name, drill in DRILLS.items() for index in range(len(drill.known_wrong))]


def defined_by(code: str) -> Any:
    """What a cell's code defines last: a function, or a value."""
    namespace: dict[str, Any] = {}
    exec(compile(code, "<cell>", "exec"), namespace)
    last = ast.parse(code).body[-1]
    return namespace[last.name if isinstance(last, ast.FunctionDef) else next(ast.walk(last.targets[0])).id]  # type: ignore


def test_five_calculators_and_three_numbers() -> None:
    assert (len(BROKEN_CALCULATORS), len(WRONG_NUMBERS)) == (5, 3)


@pytest.mark.parametrize("name", DRILLS)
class TestEveryDrill:
    def test_the_solution_passes(self, name: str) -> None:
        for seed in range(20):
            verdict = DRILLS[name].verdict(DRILLS[name].answer, seed)
            assert (verdict.kind, verdict.diagnosis) == (Kind.PASSED, ""), verdict

    def test_the_code_of_the_solution_runs_and_passes(self, name: str) -> None:
        drill = DRILLS[name]
        assert drill.verdict(defined_by(drill.solution().code)).kind is Kind.PASSED

    def test_the_starter_is_not_attempted(self, name: str) -> None:
        drill = DRILLS[name]
        for untouched in (defined_by(drill.starter), None, ...):
            assert drill.verdict(untouched).kind is Kind.NOT_ATTEMPTED

    def test_it_is_complete(self, name: str) -> None:
        drill = DRILLS[name]
        assert re.fullmatch(r"lesson[14]-[a-z0-9-]+", drill.id)
        keys = [key for _, key in drill.known_wrong]
        assert sorted(keys) == sorted(set(keys)) == sorted(drill.diagnoses)
        assert len(set(drill.diagnoses.values())) == len(keys) >= 5
        assert len(drill.hints) >= 2
        assert max(map(len, drill.starter.splitlines())) <= 110
        assert len(drill.starter.splitlines()) <= 15

    def test_the_first_wrong_answer_is_the_published_one(self, name: str) -> None:
        assert DRILLS[name].known_wrong[0][1] in ("published", "as printed")


@pytest.mark.parametrize(("name", "index"), WRONG)
def test_each_wrong_answer_gets_its_own_diagnosis(name: str, index: int) -> None:
    drill = DRILLS[name]
    answer, key = drill.known_wrong[index]
    for seed in range(20):
        verdict = drill.verdict(answer, seed)
        assert (verdict.kind, verdict.diagnosis) == (Kind.WRONG, key), f"seed {seed}: {verdict}"
        assert verdict.sentences == (drill.diagnoses[key],)


@pytest.mark.parametrize("name", BROKEN_CALCULATORS)
def test_the_code_in_the_question_is_the_published_answer(name: str) -> None:
    drill = BROKEN_CALCULATORS[name]
    code = re.search(r"```python\n(.*?)```", drill.question, re.DOTALL)
    assert code
    verdict = drill.verdict(defined_by(code[1]), 1)
    assert verdict.diagnosis == "published"


def test_ids_are_new() -> None:
    ids = [drill.id for drill in DRILLS.values()]
    taken = [
        e.id for lesson in catalog.lessons() for e in catalog.exercises(lesson).values() if e not in DRILLS.values()
    ]
    assert len(set(ids)) == len(ids)
    assert not set(ids) & set(taken)


# ------------------------------------------------------------------------------------------- the published figures
def published(name: str) -> Any:
    return DRILLS[name].known_wrong[0][0]


def test_four_times_too_much_for_llama_3_and_right_for_llama_2() -> None:
    for name, factor in (("llama-3-8b", 4), ("llama-2-7b", 1)):
        shape = shape_of(name)
        config = {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden,
                  "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}  # fmt: skip
        assert published("query_heads")(config, 1) == factor * kv_bytes_per_token(shape)


def test_the_guess_is_too_small_for_qwen3_and_too_large_for_mistral_small() -> None:
    qwen = shape_of("qwen3-4b")
    config = {"num_hidden_layers": qwen.layers, "hidden_size": qwen.hidden, "num_attention_heads": qwen.heads,
              "num_key_value_heads": qwen.kv_heads, "head_dim": qwen.head_dim}  # fmt: skip
    broken, mended = published("guessed_head"), MODULES["guessed_head"].token_bytes
    assert mended(config) / broken(config) == pytest.approx(1.6)
    mistral = {"num_hidden_layers": 40, "hidden_size": 5120, "num_attention_heads": 32, "num_key_value_heads": 8,
               "head_dim": 128}  # fmt: skip
    assert broken(mistral) / mended(mistral) == 1.25


def test_gemma_3_at_128k_tokens() -> None:
    config = {"layers": 62, "kv_heads": 16, "head_dim": 128, "window": 1024, "pattern": 6}
    assert MODULES["sliding_window"].kv_bytes(config, 131_072) / GIB == pytest.approx(10.41, abs=0.005)
    assert published("sliding_window")(config, 131_072) / GIB == pytest.approx(62, abs=0.01)
    guessed = {**config, "head_dim": 5376 // 32}  # unsloth's old figure guessed the head, too
    assert published("sliding_window")(guessed, 131_072) / GIB == pytest.approx(81.38, abs=0.01)


def test_the_table_of_llama_3_1() -> None:
    table = {"llama-3.1-8b": 15.62, "llama-3.1-70b": 39.06, "llama-3.1-405b": 123.05}
    for name, printed in table.items():
        shape = shape_of(name)
        said = published("sixteen_heads")(shape.layers, shape.kv_heads, shape.head_dim, 128_000)
        assert said == pytest.approx(printed, abs=0.01)


def test_mits_two_sizes() -> None:
    parameters = MODULES["group_scales"].OPT_1_3B
    assert published("group_scales")(parameters, 32, 128) == pytest.approx(5043.73, abs=0.005)
    assert MODULES["group_scales"].size_mib(parameters, 3, 128) == pytest.approx(495.06, abs=0.005)
    assert MODULES["group_scales"].size_mib(parameters, 32, 128) == pytest.approx(5019.22, abs=0.005)


def test_an_l4_is_half_as_fast_as_its_data_sheets_headline() -> None:
    card = {"tflops": 242, "with_sparsity": True}
    right = MODULES["sparse_rate"].prefill_seconds(card, 10**9, 1000)
    assert right == 2 * published("sparse_rate")(card, 10**9, 1000)
    assert right == pytest.approx(2e12 / gpu("l4").rate_16)


def test_the_perplexity_that_the_readme_lost() -> None:
    assert MODULES["repeated_cell"].mended() == pytest.approx(6.420, abs=5e-4)
    perplexity, _, difference = MODULES["repeated_cell"].TABLE["L2 7b q2_K"]
    assert MODULES["repeated_cell"].mended() == pytest.approx(perplexity + difference, abs=5e-4)


def test_three_lines_say_gb_and_hold_gib() -> None:
    real = MODULES["mislabelled"].real_units()
    wrong = [line for line, (_, unit, _) in MODULES["mislabelled"].PRINTED.items() if unit != real[line]]
    assert len(wrong) == 3
    for line, (number, _, nbytes) in MODULES["mislabelled"].PRINTED.items():  # either unit could not be meant by chance
        assert number * MODULES["mislabelled"].UNITS[real[line]] == pytest.approx(nbytes, rel=1.5e-3)


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("mislabelled", {}, "six lines"),
        ("mislabelled", dict.fromkeys(MISLABELLED, "MB"), "'GB' or 'GiB'"),
        ("mislabelled", {**MISLABELLED, "llama.cpp: Llama-3.1-8B, F16": "GB"}, "is that really GB?"),
        ("repeated_cell", {"column": "L2 7b"}, "`column` and `perplexity`"),
        ("repeated_cell", {"column": "L2 7b", "perplexity": 6}, "is one of"),
        ("repeated_cell", {"column": "L2 7b q2_K", "perplexity": "6.4"}, "a number is wanted"),
        ("repeated_cell", {"column": "L2 7b q2_K", "perplexity": 7.0}, "7 is too high"),
        ("repeated_cell", {"column": "L3 8b q6_K", "perplexity": 7.0}, "look at another"),
    ],
)
def test_answers_that_nobody_foresaw(name: str, answer: Any, words: str) -> None:
    verdict = DRILLS[name].verdict(answer)
    assert verdict.kind is Kind.WRONG
    assert words in verdict.sentences[0]
