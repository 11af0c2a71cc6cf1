"""Speculative decoding: the same text as without it, fewer steps, and the formula of the steps."""

from __future__ import annotations

import random

import pytest

from quantlab.errors import UsageError
from quantlab.lesson import distilled
from quantlab.models.load import LoadedModel, load
from quantlab.serve.speculation import expected_tokens, model_draft, ngram_draft, speculate

PROMPTS = ("Once upon a time, there was a little girl", "The cat sat. The dog sat. The cat sat. The dog sat. The")


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load("tiny")


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("k", [1, 4, 7])
def test_the_text_is_the_same_and_takes_fewer_steps(tiny: LoadedModel, prompt: str, k: int) -> None:
    ids = tiny.tokenizer(prompt)["input_ids"]
    plain = speculate(tiny.model, ids, 40)
    assert plain.steps == 40
    small = load(str(distilled.folder())).model
    for draft in (ngram_draft, model_draft(small), lambda tokens, k: [5] * k):
        found = speculate(tiny.model, ids, 40, draft, k)
        assert found.tokens == plain.tokens
        assert found.steps + found.right == 40  # each step makes one token of its own, and one for each right guess


def test_the_model_as_its_own_draft_is_always_right(tiny: LoadedModel) -> None:
    ids = tiny.tokenizer(PROMPTS[0])["input_ids"]
    found = speculate(tiny.model, ids, 41, model_draft(tiny.model), 4)
    assert found.acceptance == 1
    assert found.steps == 9  # 8 of 5 tokens, and one for the last


def test_the_formula_is_the_mean_of_independent_guesses() -> None:
    dice = random.Random(0)
    for a, k in ((0.3, 2), (0.7, 4), (0.9, 8)):
        runs = [next((i for i in range(k) if dice.random() >= a), k) + 1 for _ in range(20_000)]
        assert sum(runs) / len(runs) == pytest.approx(expected_tokens(a, k), rel=0.03)


def test_what_cannot_be_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(UsageError, match="needs a prompt"):
        speculate(tiny.model, [], 4)
    with pytest.raises(UsageError, match="share"):
        expected_tokens(1.5, 2)
