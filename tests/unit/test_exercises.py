"""Every exercise of the course: the solution passes, each known wrong answer gets its own diagnosis, and the starter
counts as not attempted. Then the framework itself: what it says of answers that nobody foresaw."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Callable
from typing import Any

import pytest

from quantlab.lesson import catalog, progress
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.lesson1 import exercises, kv_cache
from quantlab.lesson.message import Kind, Message
from quantlab.plan.models import MODELS
from quantlab.plan.shapes import ModelShape

EXERCISES = [(lesson, name) for lesson in catalog.lessons() for name in catalog.exercises(lesson)]
WRONG = [(*at, index) for at in EXERCISES for index in range(len(catalog.exercises(at[0])[at[1]].known_wrong))]


def exercise_at(lesson: int, name: str) -> Exercise:
    return catalog.exercises(lesson)[name]


def defined_by(code: str) -> Any:
    """What a cell's code defines last: a function, or a value."""
    namespace: dict[str, Any] = {}
    exec(compile(code, "<cell>", "exec"), namespace)
    last = ast.parse(code).body[-1]
    name = last.name if isinstance(last, ast.FunctionDef) else next(ast.walk(last.targets[0])).id  # type: ignore
    return namespace[name]


def test_the_catalog_finds_lesson_1() -> None:
    numbers = {"bits_per_weight", "kv_cache", "largest_context"}
    broken = {"guessed_head", "mislabelled", "query_heads", "sixteen_heads", "sliding_window"}
    assert set(catalog.exercises(1)) == numbers | broken
    assert catalog.predictions(1)


def test_the_catalog_finds_lesson_2() -> None:
    names = {"asymmetric", "e4m3", "groups", "nf4_codes", "own_matrix", "own_prompt", "q4_0_block"}
    assert set(catalog.exercises(2)) == names
    assert "same_word" in catalog.predictions(2)


def test_the_catalog_finds_lesson_3() -> None:
    names = {"awq_rounding", "best_scale", "gptq_step", "nvfp4_block", "own_layer", "own_text", "six_bits"}
    assert set(catalog.exercises(3)) == names
    assert {"damage_left", "wrong_text"} <= set(catalog.predictions(3))


def test_the_catalog_finds_lesson_4() -> None:
    measuring = {"divergence", "own_prompts", "own_text", "paired", "perplexity", "step_time"}
    assert set(catalog.exercises(4)) == measuring | {"repeated_cell", "sparse_rate"}
    assert {"times_faster", "same_story", "crossover"} <= set(catalog.predictions(4))


@pytest.mark.parametrize(("lesson", "name"), EXERCISES)
class TestEveryExercise:
    def test_the_solution_passes(self, lesson: int, name: str) -> None:
        exercise = exercise_at(lesson, name)
        for seed in range(20):
            verdict = exercise.verdict(exercise.answer, seed)
            assert verdict.kind is Kind.PASSED, verdict
            assert verdict.diagnosis == ""

    def test_the_starter_is_not_attempted(self, lesson: int, name: str) -> None:
        exercise = exercise_at(lesson, name)
        assert exercise.verdict(defined_by(exercise.starter)).kind is Kind.NOT_ATTEMPTED
        for untouched in (None, ...):
            assert exercise.verdict(untouched).kind is Kind.NOT_ATTEMPTED

    def test_the_code_of_the_solution_runs_and_passes(self, lesson: int, name: str) -> None:
        exercise = exercise_at(lesson, name)
        if callable(exercise.answer):
            assert f"def {exercise.answer.__name__}" in exercise.solution().code
            code = exercise.solution().code
        else:
            code = exercise.solution_code + "\nmine = mine\n"
        assert exercise.verdict(defined_by(code)).kind is Kind.PASSED

    def test_it_is_complete(self, lesson: int, name: str) -> None:
        exercise = exercise_at(lesson, name)
        assert re.fullmatch(rf"lesson{lesson}-[a-z0-9-]+", exercise.id)
        assert len(exercise.hints) >= 2
        assert len(exercise.known_wrong) >= 3
        keys = [key for _, key in exercise.known_wrong]
        assert sorted(keys) == sorted(set(keys)) == sorted(exercise.diagnoses), "one diagnosis for each wrong answer"
        assert len(set(exercise.diagnoses.values())) == len(keys)
        assert max(map(len, exercise.starter.splitlines())) <= 110
        assert len(exercise.starter.splitlines()) <= 15


@pytest.mark.parametrize(("lesson", "name", "index"), WRONG)
def test_each_wrong_answer_gets_its_own_diagnosis(lesson: int, name: str, index: int) -> None:
    exercise = exercise_at(lesson, name)
    answer, key = exercise.known_wrong[index]
    for seed in range(20):
        verdict = exercise.verdict(answer, seed)
        assert (verdict.kind, verdict.diagnosis) == (Kind.WRONG, key), f"seed {seed}: {verdict}"
        assert verdict.sentences == (exercise.diagnoses[key],)


def test_ids_are_unique() -> None:
    ids = [exercise_at(*at).id for at in EXERCISES]
    ids += [p.id for lesson in catalog.lessons() for p in catalog.predictions(lesson).values()]
    assert len(ids) == len(set(ids))


# ------------------------------------------------------------------------------------------- against the planner
KEYS_AND_VALUES = [shape for shape in MODELS.values() if shape.latent is None]  # the exercise is about these


@pytest.mark.parametrize("shape", KEYS_AND_VALUES, ids=lambda shape: shape.name)
def test_lesson_1_solutions_equal_the_planner_for_every_model(shape: ModelShape) -> None:
    from quantlab.plan.memory import kv_bytes_per_token, weights_bytes

    assert kv_cache.kv_kib(kv_cache.config_of(shape)) * 1024 == kv_bytes_per_token(shape)
    left = shape.parameters - shape.linear_parameters
    bits = exercises.bits_per_weight.answer(shape.linear_parameters, left, 128)
    planned = 8 * weights_bytes(shape, "awq_int4_g128") / shape.parameters
    if shape.hidden % 128:  # rows of 576 end in half a group, which costs a whole scale
        assert bits < planned < bits * 1.05
    else:
        assert bits == pytest.approx(planned, rel=1e-6)


def test_the_kv_cache_of_published_tables() -> None:
    """Facts that others published: KiB a token in bf16."""
    known = {"llama-3.1-8b": 128, "llama-3-70b": 320, "llama-3.1-405b": 504, "qwen3-4b": 144, "llama-2-13b": 800}
    assert {name: kv_cache.kv_kib(kv_cache.config_of(MODELS[name])) for name in known} == known


# ------------------------------------------------------------------------------------------- unforeseen answers
KV = exercises.kv_cache


def said(answer: Any) -> str:
    message = KV.check(answer)
    assert message.kind is not Kind.PASSED
    return repr(message)


def test_a_constant_does_not_pass() -> None:
    assert "whatever it is given" in said(lambda config: 320)


def test_a_table_of_the_named_models_does_not_pass() -> None:
    table = {80: 320, 36: 144, 40: 800}
    assert "belongs to one of them" in said(lambda config: table.get(config["num_hidden_layers"], 1.5))


def test_a_constant_factor_is_named() -> None:
    assert "3 times what it should be in every case" in said(lambda config: 3 * kv_cache.kv_kib(config))


def test_an_exception_gives_one_sentence_with_the_learners_line() -> None:
    def helper(config: dict[str, int]) -> float:
        return config["heads"] / 1

    def kv_kib(config: dict[str, int]) -> float:
        return helper(config)

    message = KV.check(kv_kib)
    assert message.kind is Kind.ERROR
    line = helper.__code__.co_firstlineno + 1
    assert message.sentences == (
        f"For llama-3-70b your code raised KeyError: 'heads', in line {line}: `return config[\"heads\"] / 1`",
    )


def test_an_exception_in_a_cell_without_a_file_still_names_the_line() -> None:
    namespace: dict[str, Any] = {}
    exec(compile("def kv_kib(config):\n    x = 1\n    return x / 0\n", "<cell 7>", "exec"), namespace)
    assert "ZeroDivisionError: division by zero, in line 3" in said(namespace["kv_kib"])


def test_endless_recursion_is_a_sentence_too() -> None:
    def kv_kib(config: dict[str, int]) -> float:
        return kv_kib(config)

    assert "RecursionError" in said(kv_kib)


def test_not_implemented_is_not_attempted() -> None:
    def kv_kib(config: dict[str, int]) -> float:
        raise NotImplementedError

    assert KV.check(kv_kib).kind is Kind.NOT_ATTEMPTED


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (320, "Pass the function `kv_kib(config)` itself, without calling it; this is 320."),
        (lambda: 1, "Your function takes (); it is called as `kv_kib(config)`."),
        (lambda config, tokens: 1, "Your function takes (config, tokens)"),
        (lambda config: "320", "returns '320', a str: a number is wanted."),
        (lambda config: True, "returns True, a bool: a number is wanted."),
        (lambda config: float("nan"), "returns nan: a finite number is wanted."),
        (lambda config: 320 if config["num_hidden_layers"] == 80 else None, "every path through the function"),
        (lambda config: -kv_cache.kv_kib(config), "below zero"),
    ],
)
def test_answers_of_the_wrong_kind(answer: Any, words: str) -> None:
    assert words in said(answer)


def test_numbers_of_numpy_and_torch_count() -> None:
    import numpy as np
    import torch

    for wrap in (np.float64, np.array, torch.tensor, int):
        assert KV.verdict(lambda config, wrap=wrap: wrap(kv_cache.kv_kib(config))).kind is Kind.PASSED
    assert "ndarray" in said(lambda config: np.ones(3))


def test_an_answer_that_changes_its_arguments_is_judged_on_what_it_was_given() -> None:
    def kv_kib(config: dict[str, int]) -> float:
        result = kv_cache.kv_kib(config)
        config.clear()
        return result

    assert KV.verdict(kv_kib).kind is Kind.PASSED


# ------------------------------------------------------------------------------------------- the open exercise
OPEN = exercises.largest_context


def mine(**changes: Any) -> dict[str, Any]:
    return {**OPEN.answer, **changes}


def test_the_learners_own_config() -> None:
    config = {
        "model_type": "llama", "num_hidden_layers": 24, "hidden_size": 2048, "intermediate_size": 8192,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 50000, "max_position_embeddings": 4096,
    }  # fmt: skip
    from quantlab.plan.gpus import gpu
    from quantlab.plan.memory import OVERHEAD_BYTES, weights_bytes
    from quantlab.plan.models import shape_from_config

    beside = weights_bytes(shape_from_config(config, "mine"), "nf4") + OVERHEAD_BYTES
    tokens = (gpu("t4").memory_bytes - beside) / (2 * 24 * 8 * 64 * 2) / 3
    message = OPEN.check(mine(model=config, gpu="t4", format="nf4", batch=3, context=int(tokens)))
    assert message.kind is Kind.PASSED, message
    assert "It was made for 4,096: memory is not what limits it." in message.sentences[0]


def test_what_does_not_fit_holds_no_tokens() -> None:
    choice = mine(model="llama-3-70b", gpu="t4", format="bf16", batch=1)
    assert "0 is right" in repr(OPEN.check({**choice, "context": 0}))
    assert OPEN.check({**choice, "context": 44000}).kind is Kind.WRONG


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (5, "Pass the dictionary `mine`"),
        ({"model": "tiny"}, "lacks gpu, format, batch, context"),
        (mine(model="llama-3.1-8x"), "did you mean 'llama-3.1-8b'"),
        (mine(gpu="rtx-4091"), "did you mean 'rtx-4090'"),
        (mine(format="q4km"), "Unknown format 'q4km'"),
        (mine(batch=0), "Batch must be a whole number from 1"),
        (mine(batch="4"), "Batch must be a whole number from 1"),
        (mine(context="many"), "`context` is 'many', a str"),
        (mine(model="mistral-7b"), "a sliding window"),
        (mine(context=20_000), "20,000 tokens are too few"),
        (mine(context=35_000), "35,000 tokens are too many"),
        (mine(model={"model_type": "mamba"}), "Unknown model family 'mamba'"),
    ],
)
def test_the_open_exercise_explains_what_it_cannot_use(answer: Any, words: str) -> None:
    message = OPEN.check(answer)
    assert message.kind is Kind.WRONG
    assert words in repr(message)


# ------------------------------------------------------------------------------------------- what is shown and kept
def test_hints_come_one_by_one() -> None:
    first, second, last = KV.hint(), KV.hint(), KV.hint()
    assert [m.title for m in (first, second, last, KV.hint())] == ["1 of 3", "2 of 3", "3 of 3", "3 of 3"]
    assert "no further hint" in repr(last)
    assert "no further hint" not in repr(first)
    assert KV.hint(1) == first
    assert progress.entry("exercises", KV.id)["hints"] == 3


def test_what_is_recorded() -> None:
    def kept() -> dict[str, Any]:
        return progress.entry("exercises", KV.id)

    KV.check(None)
    assert kept() == {}
    KV.check(lambda config: 1)
    assert kept() == {"attempts": 1, "outcome": "WRONG"}
    KV.solution()
    assert kept()["solution_seen"] is True
    KV.check(KV.answer)
    assert kept()["outcome"] == "PASSED"
    assert kept()["attempts"] == 2
    first = kept()["passed_at"]
    KV.check(lambda config: 1)
    assert kept()["outcome"] == "PASSED", "what was passed stays passed"
    assert kept()["passed_at"] == first


def test_reading_the_solution_after_passing_is_not_held_against_anyone() -> None:
    KV.check(KV.answer)
    KV.solution()
    assert "solution_seen" not in progress.entry("exercises", KV.id)


def words_of(page: str) -> str:
    text = re.sub(r"<code>(.*?)</code>", r"`\1`", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


@pytest.mark.parametrize(
    "say",
    [
        lambda: KV.check(lambda config: 1),
        lambda: KV.hint(1),
        lambda: KV.check(KV.answer),
        lambda: Message(Kind.NOTE, "a < b & `c`", ("x > y",)),
    ],
)
def test_html_and_plain_text_say_the_same(say: Callable[[], Message]) -> None:
    message = say()
    page = message._repr_html_()
    assert words_of(page) == " ".join(repr(message).split())
    assert page.startswith('<div role="status"')
    assert message.kind.value[0] in page, "the status is in words, not only in colour"


def test_code_is_escaped() -> None:
    assert "<pre" in (page := Message(Kind.SOLUTION, "t", code="a < b  # <script>")._repr_html_())
    assert "<script>" not in page


def test_an_exercise_shows_its_question() -> None:
    assert KV.question in KV._repr_markdown_()
    assert KV.question in repr(KV)
