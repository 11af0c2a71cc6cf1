"""What a model is fine-tuned on: requests, the answers it should give, and a part that it never sees.

    {"split": "train" or "held-out", "prompt": "Tell me ...", "text": "Light the lantern, ..."}      one example a line

An example goes through the model's own chat template, and the loss counts the answer alone: the request is given, not
to be learned. What is held out is what every figure is measured on.

The bundled set (assets/stories/finetune.jsonl, written for this course) is 52 lantern tales: animals differ, but each
tale begins and ends in the same words and goes to the same Mother Badger. A model either knows that or it does not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.assets import bundled
from quantlab.errors import QuantlabError

BUNDLED = "assets/stories/finetune.jsonl"
SPLITS = ("train", "held-out")


@dataclass(frozen=True)
class Example:
    """A request and the answer to it."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Examples:
    """What is learned from, and what is measured on."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]


@dataclass(frozen=True)
class Encoded:
    """An example as token ids; those from `start` on are the answer, the end-of-text token included."""

    tokens: tuple[int, ...]
    start: int


def read_examples(path: Path | None = None) -> Examples:
    """The examples of a .jsonl file; without a path the bundled lantern tales.

    Raises QuantlabError for a file that cannot be read or is damaged, and for one that leaves a split empty.
    """
    path = path or bundled(BUNDLED)
    found: dict[str, list[Example]] = {split: [] for split in SPLITS}
    try:
        for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            found[row["split"]].append(Example(str(row["prompt"]), str(row["text"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QuantlabError(
            f'{path} cannot be used ({error}); each line needs "prompt", "text" and "split", train or held-out'
        ) from error
    if len(found["train"]) < 1 or len(found["held-out"]) < 2:
        raise QuantlabError(f"{path} needs examples to train on and at least two that are held out; add lines")
    return Examples(*(tuple(found[split]) for split in SPLITS))


def encode(tokenizer: Any, example: Example, context: int) -> Encoded:
    """An example in its model's chat template, at most `context` tokens; raises QuantlabError where there is none."""
    if not getattr(tokenizer, "chat_template", None):
        raise QuantlabError("the tokenizer has no chat template, which says how a request is put; take a chat model")
    ask, answer = {"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.text}
    before = tokenizer.apply_chat_template([ask], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([ask, answer], tokenize=False)
    if not whole.startswith(before):
        raise QuantlabError("the chat template puts a request in two ways, so its answer cannot be told apart")
    start, tokens = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, whole))
    if len(tokens) > context:
        raise QuantlabError(f"the example {example.prompt!r} has {len(tokens)} tokens, {context} fit; shorten it")
    return Encoded(tuple(tokens), len(start))
