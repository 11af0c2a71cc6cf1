"""Two-choice endings: the score by its definition, and items that cannot be read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import TorchLogits
from quantlab.evaluate.task import read_choices, score_choices
from quantlab.models.load import LoadedModel


def _write(path: Path, *items: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_the_bundled_endings(tiny: LoadedModel) -> None:
    choices = read_choices(tiny.tokenizer, 512)
    assert len(choices) == 60
    for choice in choices:
        for ending in (choice.right, choice.wrong):
            assert ending.tokens[0] == tiny.tokenizer.bos_token_id
            text = tiny.tokenizer.decode(ending.tokens[ending.start :])
            assert text.startswith(" ")
            assert len(text[1:].encode()) == ending.nbytes
        assert choice.right.start == choice.wrong.start
        shared = choice.right.start
        assert choice.right.tokens[:shared] == choice.wrong.tokens[:shared], "both follow the same context"


def test_the_score_is_log_probability_for_each_byte(tiny: LoadedModel, tmp_path: Path) -> None:
    item = {
        "context": "The boy had a red ball.",
        "right": "He threw the ball.",
        "wrong": "Purple seven walked under it.",
    }
    choices = read_choices(tiny.tokenizer, 512, _write(tmp_path / "a.jsonl", item, item))
    scores = []
    for ending in (item["right"], item["wrong"]):
        whole = tiny.tokenizer("<|begin|>" + item["context"] + " " + ending, add_special_tokens=False)["input_ids"]
        start = len(tiny.tokenizer("<|begin|>" + item["context"], add_special_tokens=False)["input_ids"])
        with torch.inference_mode():
            p = tiny.model(torch.tensor([whole])).logits[0].double().softmax(-1)
        scores.append(sum(math.log(p[at - 1, whole[at]]) for at in range(start, len(whole))) / len(ending.encode()))
    assert scores[0] != scores[1]
    assert score_choices(TorchLogits(tiny.model), choices).tolist() == [scores[0] > scores[1]] * 2


def test_a_model_that_knows_the_answers_is_right_and_its_opposite_wrong(tiny: LoadedModel) -> None:
    choices = read_choices(tiny.tokenizer, 512)
    right = {choice.right.tokens for choice in choices}
    steps = []

    class Oracle:
        def __init__(self, sign: float) -> None:
            self.sign = sign

        def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
            for tokens in sequences:
                logits = torch.zeros(len(tokens), 4096)
                logits[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])] = self.sign * (
                    5 if tokens in right else -5
                )
                yield logits

    assert score_choices(Oracle(1), choices, lambda: steps.append(1)).all()
    assert not score_choices(Oracle(-1), choices).any()
    assert len(steps) == 60


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json\n", "is damaged"),
        ('{"context": "a", "right": "b"}\n', "is damaged"),
        ('["a"]\n', "is damaged"),
        (None, "is damaged"),
    ],
)
def test_items_that_cannot_be_read(tiny: LoadedModel, tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(QuantlabError, match=words):
        read_choices(tiny.tokenizer, 512, tmp_path / "a.jsonl")


def test_an_item_longer_than_the_context(tiny: LoadedModel) -> None:
    with pytest.raises(QuantlabError, match="choose a longer one"):
        read_choices(tiny.tokenizer, 20)
