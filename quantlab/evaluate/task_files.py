"""Multiple-choice questions as their data sets publish them, one JSON object a line.

    {"context", "right", "wrong"}                                       the bundled story endings
    {"question", "choices": {"text", "label"}, "answerKey"}             ARC, as on the Hub (allenai/ai2_arc)
    {"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"} ARC, as AI2 publishes it
    {"goal", "sol1", "sol2", "label"}                                   PIQA
    {"premise", "choice1", "choice2", "question", "label"}              COPA (SuperGLUE); question: "cause" or "effect"

A file of any of these is read as it is; which of them it is, its keys say. The prompts are those of lm-evaluation-
harness 0.4 (tasks/arc, piqa and super_glue/copa), so that scores can be compared with published ones:

    ARC, PIQA   "Question: ...\\nAnswer:" and " " + choice
    COPA        the premise without its full stop, " because" or " therefore", and the choice begun in lower case

Sources: Clark et al. 2018 (ARC, 1803.05457), Bisk et al. 2019 (PIQA, 1911.11641), Roemmele et al. 2011 (COPA).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError


@dataclass(frozen=True)
class Item:
    """A context, and the choices that may follow it after a space; `right` is the number of the right one."""

    context: str
    choices: tuple[str, ...]
    right: int


def _ending(line: Mapping[str, Any]) -> Item:
    return Item(line["context"], (line["right"], line["wrong"]), 0)


def _arc(line: Mapping[str, Any]) -> Item:
    of = line["choices"]
    return _question(line["question"], of["text"], list(of["label"]).index(line["answerKey"]))


def _ai2_arc(line: Mapping[str, Any]) -> Item:
    of = line["question"]["choices"]
    labels = [choice["label"] for choice in of]
    return _question(line["question"]["stem"], [choice["text"] for choice in of], labels.index(line["answerKey"]))


def _piqa(line: Mapping[str, Any]) -> Item:
    return _question(line["goal"], [line["sol1"], line["sol2"]], int(line["label"]))


def _question(question: str, choices: list[str], right: int) -> Item:
    return Item(f"Question: {question}\nAnswer:", tuple(choices), right)


def _copa(line: Mapping[str, Any]) -> Item:
    word = {"cause": "because", "effect": "therefore"}[line["question"]]
    choices = (line["choice1"], line["choice2"])
    return Item(f"{line['premise'].strip()[:-1]} {word}", tuple(c[0].lower() + c[1:] for c in choices), line["label"])


SHAPES: tuple[tuple[str, Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Item]], ...] = (
    ("context, right, wrong", lambda line: {"context", "right", "wrong"} <= line.keys(), _ending),
    ("question, choices, answerKey (ARC)", lambda line: {"question", "choices", "answerKey"} <= line.keys(), _arc),
    ("question with stem and choices, answerKey (ARC)",
     lambda line: "answerKey" in line and isinstance(line.get("question"), dict), _ai2_arc),
    ("goal, sol1, sol2, label (PIQA)", lambda line: {"goal", "sol1", "sol2", "label"} <= line.keys(), _piqa),
    ("premise, choice1, choice2, question, label (COPA)",
     lambda line: {"premise", "choice1", "choice2", "question", "label"} <= line.keys(), _copa),
)  # fmt: skip


def read_items(path: Path) -> list[Item]:
    """The items of a file; all of its lines have one shape.

    Raises QuantlabError, with the number of the line, for one that is not as its shape says, and for an empty file.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; name a .jsonl file of questions") from error
    except UnicodeDecodeError as error:
        raise QuantlabError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise QuantlabError(f"{path} is empty; each line is a question as a JSON object")
    parse = _shape(path, *numbered[0])
    return [_item(path, number, line, parse) for number, line in numbered]


def _object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise QuantlabError(f"{path}, line {number} is no JSON ({error}); write one JSON object a line") from error
    if not isinstance(found, dict):
        raise QuantlabError(f"{path}, line {number} is no JSON object; it needs the keys of a question")
    return found


def _shape(path: Path, number: int, line: str) -> Callable[[Mapping[str, Any]], Item]:
    found = _object(path, number, line)
    for _, fits, parse in SHAPES:
        if fits(found):
            return parse
    known = "; ".join(keys for keys, _, _ in SHAPES)
    raise QuantlabError(f"{path}, line {number} has the keys {', '.join(found) or 'of nothing'}; known are: {known}")


def _item(path: Path, number: int, line: str, parse: Callable[[Mapping[str, Any]], Item]) -> Item:
    found = _object(path, number, line)
    try:
        item = parse(found)
        sound = (
            isinstance(item.right, int)
            and len(item.choices) >= 2
            and 0 <= item.right < len(item.choices)
            and all(isinstance(text, str) and text.strip() for text in (item.context, *item.choices))
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise QuantlabError(f"{path}, line {number} is not like the first line ({reason}); mend or drop it") from error
    if not sound:
        raise QuantlabError(
            f"{path}, line {number} needs a text, two choices or more, and the right one among them; mend or drop it"
        )
    return item
