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
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.assets import bundled
from quantlab.errors import QuantlabError
from quantlab.evaluate.logits import Fork, Source, one_thread


@dataclass(frozen=True)
class Choice:
    """A context with its right and its wrong ending: token ids, and the endings' lengths in bytes."""

    fork: Fork  # ends: the right one, the wrong one
    nbytes: tuple[int, int]


def read_choices(tokenizer: Any, context: int, path: Path | None = None) -> list[Choice]:
    """The items of a .jsonl file ({"context", "right", "wrong"} a line); without a path the bundled story endings.

    The ending is joined to the context by a space. Raises QuantlabError when an item is longer than `context` tokens.
    """
    path = path or bundled("assets/stories/endings.jsonl")
    try:
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [_choice(tokenizer, item["context"], (item["right"], item["wrong"]), context) for item in items]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, QuantlabError):
            raise
        raise QuantlabError(f"{path} is damaged ({error}); each line needs context, right and wrong") from error


def _choice(tokenizer: Any, before: str, endings: tuple[str, str], context: int) -> Choice:
    """Tokens of the two whole texts, cut where the context's tokens end, or earlier where an ending changes them."""
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    count = len(bos) + len(tokenizer(before, add_special_tokens=False)["input_ids"])
    wholes = [[*bos, *tokenizer(f"{before} {end}", add_special_tokens=False)["input_ids"]] for end in endings]
    if (longest := max(map(len, wholes))) > context:
        raise QuantlabError(f"a story ending takes {longest} tokens, the context is {context}; choose a longer one")
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wholes[0][:count], wholes[1], strict=False)))
    right, wrong = (tuple(whole[shared:]) for whole in wholes)
    nbytes = (len(endings[0].encode("utf-8")), len(endings[1].encode("utf-8")))
    return Choice(Fork(tuple(wholes[0][:shared]), (right, wrong)), nbytes)


def score_choices(source: Source, choices: Sequence[Choice], step: Callable[[], None] = lambda: None) -> Tensor:
    """Whether the right ending scores higher, bool [items]; `step` is called after each item."""
    won = []
    with one_thread():
        for choice, logits in zip(choices, source.forks([choice.fork for choice in choices]), strict=True):
            right, wrong = map(_score, logits, choice.fork.ends, choice.nbytes)
            won.append(right > wrong)
            step()
    return torch.tensor(won)


def _score(logits: Tensor, end: tuple[int, ...], nbytes: int) -> float:
    """Log-probability of an ending for each byte of it, nats. logits [t, vocab] predict its t tokens."""
    log_p = logits.double().log_softmax(-1)
    return log_p.gather(1, torch.tensor(end)[:, None]).sum().item() / nbytes
