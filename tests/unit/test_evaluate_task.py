"""Multiple choice: the scores by their definition, the shapes of the files, and items that cannot be read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quantlab.assets import bundled
from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Fork, TorchLogits
from quantlab.evaluate.task import mcnemar, read_choices, score_choices
from quantlab.evaluate.task_files import Item, read_items
from quantlab.models.load import LoadedModel


def _write(path: Path, *items: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_the_bundled_endings(tiny: LoadedModel) -> None:
    choices = read_choices(tiny.tokenizer, 512)
    assert len(choices) == 60
    lines = bundled("assets/stories/endings.jsonl").read_text(encoding="utf-8").splitlines()
    for choice, item in zip(choices, map(json.loads, lines), strict=True):
        assert choice.fork.start[0] == tiny.tokenizer.bos_token_id
        assert tiny.tokenizer.decode(choice.fork.start[1:]) == item["context"]
        for end, side, letters in zip(choice.fork.ends, ("right", "wrong"), choice.letters, strict=True):
            assert tiny.tokenizer.decode(end) == " " + item[side]
            assert letters == len(item[side])


def _asked(model: Any, tokenizer: Any, context: str, choices: Sequence[str]) -> list[float]:
    """log p of each choice, straight from the definition: no cache, no fork."""
    found = []
    start = len(tokenizer("<|begin|>" + context, add_special_tokens=False)["input_ids"])
    for choice in choices:
        whole = tokenizer(f"<|begin|>{context} {choice}", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            p = model(torch.tensor([whole])).logits[0].double().softmax(-1)
        found.append(sum(math.log(p[at - 1, whole[at]]) for at in range(start, len(whole))))
    return found


STEM, FOUR = (
    "Why did the boy run?",
    ["He saw a dog.", "Purple.", "The ball was red and he wanted it.", "It ran to run."],
)
ARC = {"question": STEM, "choices": {"text": FOUR, "label": ["A", "B", "C", "D"]}, "answerKey": "C"}
AI2 = {"question": {"stem": STEM, "choices": [{"text": t, "label": n} for t, n in zip(FOUR, "1234", strict=True)]},
       "answerKey": "3"}  # fmt: skip
PIQA = {"goal": STEM, "sol1": FOUR[0], "sol2": FOUR[2], "label": 1}
COPA = {"premise": "The boy ran home.", "choice1": "He was glad.", "choice2": "It got dark.", "question": "cause",
        "label": 1}  # fmt: skip
ENDING = {"context": "The boy had a red ball.", "right": "He threw the ball.", "wrong": "Purple seven walked under it."}
PROMPT = f"Question: {STEM}\nAnswer:"
EXPECTED = {
    "arc": (ARC, PROMPT, FOUR, 2),
    "ai2's arc": (AI2, PROMPT, FOUR, 2),
    "piqa": (PIQA, PROMPT, [FOUR[0], FOUR[2]], 1),
    "copa, cause": (COPA, "The boy ran home because", ["he was glad.", "it got dark."], 1),
    "copa, effect": (COPA | {"question": "effect"}, "The boy ran home therefore", ["he was glad.", "it got dark."], 1),
    "ending": (ENDING, ENDING["context"], [ENDING["right"], ENDING["wrong"]], 0),
}


@pytest.mark.parametrize("shape", EXPECTED)
def test_both_scores_of_every_shape_are_those_of_their_definition(
    tiny: LoadedModel, tmp_path: Path, shape: str
) -> None:
    line, context, choices, right = EXPECTED[shape]
    items = read_items(_write(tmp_path / "a.jsonl", line, line))
    assert items == [Item(context, tuple(choices), right)] * 2
    found = score_choices(TorchLogits(tiny.model), read_choices(tiny.tokenizer, 512, tmp_path / "a.jsonl"))
    log_p = _asked(tiny.model, tiny.tokenizer, context, choices)
    each = [score / len(choice) for score, choice in zip(log_p, choices, strict=True)]
    assert found.acc.tolist() == [log_p.index(max(log_p)) == right] * 2
    assert found.acc_norm.tolist() == [each.index(max(each)) == right] * 2


def test_a_longer_end_wins_only_where_its_letters_are_counted(tmp_path: Path, tiny: LoadedModel) -> None:
    """The same liking for each token: the sum prefers the short end, the mean over letters the end of long words."""
    line = {"context": "The boy", "right": "wanted something wonderful.", "wrong": "a."}

    class Even:
        def forks(self, forks: Sequence[Fork], /) -> Iterator[list[Tensor]]:
            yield from ([torch.zeros(len(end), 4096) for end in fork.ends] for fork in forks)

    found = score_choices(Even(), read_choices(tiny.tokenizer, 512, _write(tmp_path / "a.jsonl", line)))  # type: ignore[arg-type]
    assert (found.acc.tolist(), found.acc_norm.tolist()) == ([False], [True])


def test_mcnemar_is_the_exact_test() -> None:
    x = torch.tensor([True] * 10 + [False] * 3 + [True] * 5 + [False] * 2)
    y = torch.tensor([False] * 10 + [True] * 3 + [True] * 5 + [False] * 2)
    heads = [bin(coins).count("1") for coins in range(2**13)]  # 13 discordant items: every way that coins can fall
    assert mcnemar(x, y) == pytest.approx(sum(abs(h - 6.5) >= 3.5 for h in heads) / 2**13)
    assert mcnemar(x, y) == mcnemar(y, x)
    assert mcnemar(x, x) == 1
    with pytest.raises(ValueError, match="not to the same items"):
        mcnemar(x, y[:3])


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

    assert score_choices(Oracle(5), choices, lambda: steps.append(1)).acc_norm.all()
    assert not score_choices(Oracle(-5), choices).acc_norm.any()
    assert len(steps) == 60


LINE = json.dumps(ARC)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json\n", "line 1 is no JSON .* write one JSON object a line"),
        ('["a"]\n', "line 1 is no JSON object"),
        ('{"context": "a", "right": "b"}\n', "line 1 has the keys context, right; known are: context, right, wrong;"),
        ("{}\n", "line 1 has the keys of nothing"),
        ("\n \n", "is empty; each line is a question"),
        (f'{LINE}\n\n{{"question": "a"}}\n', "line 3 is not like the first line .no 'choices'.; mend or drop it"),
        (json.dumps(ARC | {"answerKey": "E"}), "line 1 is not like the first line .*mend or drop it"),
        (json.dumps(PIQA | {"label": 2}), "line 1 needs a text, two choices or more, and the right one among them"),
        (json.dumps(PIQA | {"label": None}), "line 1 is not like the first line"),
        (json.dumps(PIQA | {"sol1": 7}), "line 1 needs a text"),
        (json.dumps(COPA | {"question": "why"}), "line 1 is not like the first line .no 'why'."),
        (json.dumps(COPA | {"choice1": ""}), "line 1 is not like the first line"),
        (b"\xff\xfe", "is not UTF-8 text; save it as UTF-8"),
        (None, "cannot read .* name a .jsonl file of questions"),
    ],
)
def test_items_that_cannot_be_read(tiny: LoadedModel, tmp_path: Path, content: str | bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "a.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(QuantlabError, match=words):
        read_choices(tiny.tokenizer, 512, tmp_path / "a.jsonl")


def test_an_item_longer_than_the_context(tiny: LoadedModel) -> None:
    with pytest.raises(QuantlabError, match="choose a longer one"):
        read_choices(tiny.tokenizer, 20)
