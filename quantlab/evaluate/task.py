"""Two-choice story endings: which of two ends does the model find more likely?

    score(ending) = log p(ending | context) / bytes of the ending

Divided by the bytes, or the shorter ending would win too often: lm-eval's `acc_norm`, the usual score for HellaSwag,
likewise divides by the length of the text (in characters: the same for plain English). A coin scores 50%.
With 60 items the standard error is about 6 points: the task can show a broken model, not a ranking of good ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.assets import bundled
from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Source


@dataclass(frozen=True)
class Ending:
    """Token ids of a context with one ending, where the ending starts, and its length in bytes."""

    tokens: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class Choice:
    """The right ending and the wrong one."""

    right: Ending
    wrong: Ending


def read_choices(tokenizer: Any, context: int, path: Path | None = None) -> list[Choice]:
    """The items of a .jsonl file ({"context", "right", "wrong"} a line); without a path the bundled story endings.

    The ending is joined to the context by a space. Raises QuantlabError when an item is longer than `context` tokens.
    """
    path = path or bundled("assets/stories/endings.jsonl")
    try:
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [
            Choice(*(_ending(tokenizer, item["context"], item[side], context) for side in ("right", "wrong")))
            for item in items
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, QuantlabError):
            raise
        raise QuantlabError(f"{path} is damaged ({error}); each line needs context, right and wrong") from error


def _ending(tokenizer: Any, before: str, ending: str, context: int) -> Ending:
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    whole = [*bos, *tokenizer(f"{before} {ending}", add_special_tokens=False)["input_ids"]]
    start = len(bos) + len(tokenizer(before, add_special_tokens=False)["input_ids"])
    if len(whole) > context:
        raise QuantlabError(f"a story ending takes {len(whole)} tokens, the context is {context}; choose a longer one")
    return Ending(tuple(whole), start, len(ending.encode("utf-8")))


def score_choices(source: Source, choices: Sequence[Choice], step: Callable[[], None] = lambda: None) -> Tensor:
    """Whether the right ending scores higher, bool [items]; `step` is called after each item."""
    endings = [ending for choice in choices for ending in (choice.right, choice.wrong)]
    logits = source([ending.tokens for ending in endings])
    won = []
    for choice in choices:
        won.append(_score(next(logits), choice.right) > _score(next(logits), choice.wrong))
        step()
    return torch.tensor(won)


def _score(logits: Tensor, ending: Ending) -> float:
    """Log-probability of the ending's tokens for each byte of it, nats. logits [t, vocab]."""
    rows = logits[ending.start - 1 : -1].double().log_softmax(-1)
    came = torch.tensor(ending.tokens[ending.start :])
    return rows.gather(1, came[:, None]).sum().item() / ending.nbytes
