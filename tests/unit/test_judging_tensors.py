"""What is said of answers that return tensors, and that nobody foresaw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quantlab.lesson.lesson2 import exercises
from quantlab.lesson.lesson2.groups import round_in_groups
from quantlab.lesson.message import Kind

GROUPS, NF4 = exercises.groups, exercises.nf4_codes


def said(answer: Any) -> str:
    message = GROUPS.check(answer)
    assert message.kind is not Kind.PASSED
    return repr(message)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (5, "Pass the function `round_in_groups(W, bits, group)` itself"),
        (lambda W: W, "Your function takes (W); it is called as `round_in_groups(W, bits, group)`."),
        (lambda W, bits, group: W[:, 0], "a tensor of shape [64]: [64, 64] is wanted."),
        (lambda W, bits, group: 3.0, "a tensor of shape []: [64, 64] is wanted."),
        (lambda W, bits, group: "three", "a str: a tensor is wanted."),
        (lambda W, bits, group: W / 0, "values that are not finite"),
        (lambda W, bits, group: W if bits == 3 else None, "every path through the function must end"),
        (lambda W, bits, group: W + 1, "values differ; at [0, 0] yours is"),  # no level is so far from W
    ],
)
def test_answers_of_the_wrong_kind(answer: Any, words: str) -> None:
    assert words in said(answer)


def test_a_mistake_in_the_code_names_the_line() -> None:
    def answer(W: Tensor, bits: int, group: int) -> Tensor:
        return W.reshape(3, 5)

    message = GROUPS.check(answer)
    assert message.kind is Kind.ERROR
    assert "RuntimeError" in repr(message)
    assert f"in line {answer.__code__.co_firstlineno + 1}" in repr(message)


def test_scales_in_16_bits_are_right_too() -> None:
    def answer(W: Tensor, bits: int, group: int) -> Tensor:
        G = W.reshape(len(W), -1, group)
        scale = (G.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)).half().float()
        return ((G / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale).reshape(W.shape)

    for seed in range(10):
        assert GROUPS.verdict(answer, seed).kind is Kind.PASSED


def test_lists_and_arrays_count() -> None:
    def loop(w: Tensor, levels: Tensor) -> list[int]:
        top = max(abs(x) for x in w.tolist())
        return [min(range(16), key=lambda code: abs(x / top - float(levels[code]))) for x in w.tolist()]

    assert NF4.verdict(loop, 1).kind is Kind.PASSED
    assert NF4.verdict(lambda w, levels: np.array(loop(w, levels)), 1).kind is Kind.PASSED


def test_an_answer_that_changes_its_arguments_is_judged_on_what_it_was_given() -> None:
    def answer(W: Tensor, bits: int, group: int) -> Tensor:
        result = round_in_groups(W, bits, group)
        W.zero_()
        return result

    assert GROUPS.verdict(answer, 1).kind is Kind.PASSED


# ------------------------------------------------------------------------------------------- the open exercises
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "model.layers.9.mlp"}, "Unknown layer of the story model"),
        ({"weights": [[1.0, 2.0], [3.0]]}, "a list of rows of equal length"),
        ({"weights": torch.zeros(4, 32)}, "are all zero"),
        ({"weights": torch.randn(4, 30)}, "Rows of 30 weights do not divide into groups of 32"),
        ({"weights": torch.randn(4)}, "a non-empty matrix"),
        ({"bits": 9}, "Bits must be from 2 to 8"),
        ({"bits": "4"}, "`bits` must be a whole number"),
        ({"group": 0}, "`group` must be a whole number above 0"),
        ({"error": "small"}, "`error` is 'small', a str"),
        ({"error": 99.0}, "99 per cent is too much for this matrix."),
        ({"error": 1.0}, "1 per cent is too little for this matrix."),
    ],
)
def test_a_matrix_of_ones_own_explains_what_it_cannot_use(changes: dict[str, Any], words: str) -> None:
    message = exercises.own_matrix.check({**exercises.own_matrix.answer, **changes})
    assert message.kind is Kind.WRONG
    assert words in repr(message)


def test_rows_that_were_typed() -> None:
    from quantlab.lesson.lesson2.own_matrix import right_error

    rows = [[0.1, -0.7, 0.3, 0.2], [1.5, 0.2, -0.9, 0.4]]
    mine = {"weights": rows, "bits": 3, "group": 4, "error": right_error(torch.tensor(rows), 3, 4)}
    message = exercises.own_matrix.check(mine)
    assert message.kind is Kind.PASSED, message
    assert "2 x 4 weights in 3 bits, groups of 4" in repr(message)


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (7, "is no dictionary"),
        ({"prompt": "x"}, "lacks bits"),
        ({"prompt": "", "bits": 4}, "`prompt` must be a text"),
        ({"prompt": 5, "bits": 4}, "`prompt` must be a text"),
        ({"prompt": "x", "bits": 1}, "one of 8, 7, 6"),
        ({"prompt": "x", "bits": True}, "one of 8, 7, 6"),
    ],
)
def test_a_prompt_of_ones_own_explains_what_it_cannot_use(mine: Any, words: str) -> None:
    message = exercises.own_prompt.check(mine)
    assert message.kind is Kind.WRONG
    assert words in repr(message)


def test_the_fewest_bits_stop_at_the_first_change() -> None:
    from quantlab.lesson.lesson2.own_prompt import fewest_bits

    words = dict.fromkeys((8, 7, 6, 5, 4, 3, 2), "a")
    assert fewest_bits("a", words) == 2
    assert fewest_bits("a", {**words, 5: "b"}) == 6
    assert fewest_bits("a", {**words, 8: "b"}) is None
