"""Two-choice endings: the score by its definition, and items that cannot be read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantlab.assets import bundled
from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Fork, TorchLogits
from quantlab.evaluate.task import read_choices, score_choices
from quantlab.models.load import LoadedModel


def _write(path: Path, *items: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_the_bundled_endings(tiny: LoadedModel) -> None:
    choices = read_choices(tiny.tokenizer, 512)
    assert len(choices) == 60
    lines = bundled("assets/stories/endings.jsonl").read_text(encoding="utf-8").splitlines()
    for choice, item in zip(choices, map(json.loads, lines), strict=True):
        assert choice.fork.start[0] == tiny.tokenizer.bos_token_id
        assert tiny.tokenizer.decode(choice.fork.start[1:]) == item["context"]
        for end, side, nbytes in zip(choice.fork.ends, ("right", "wrong"), choice.nbytes, strict=True):
            assert tiny.tokenizer.decode(end) == " " + item[side]
            assert nbytes == len(item[side].encode())


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
    steps = []

    class Oracle:
        """Likes the first of two ends by so much, whatever it says."""

        def __init__(self, liking: float) -> None:
            self.liking = liking

        def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
            raise AssertionError("the task asks for forks")

        def forks(self, forks: Sequence[Fork], /) -> Iterator[list[Tensor]]:
            for fork in forks:
                found = [torch.zeros(len(end), 4096) for end in fork.ends]
                for logits, end, sign in zip(found, fork.ends, (1, -1), strict=True):
                    logits[torch.arange(len(end)), torch.tensor(end)] = sign * self.liking
                yield found

    assert score_choices(Oracle(5), choices, lambda: steps.append(1)).all()
    assert not score_choices(Oracle(-5), choices).any()
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
