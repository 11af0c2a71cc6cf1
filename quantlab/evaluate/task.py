"""Multiple choice: which of several ends does the model find most likely?

    acc         the end with the largest  log p(end | context)
    acc_norm    the end with the largest  log p(end | context) / letters of the end

Undivided, a shorter end wins too often; divided, a longer one of common words may. They are the two scores of
lm-evaluation-harness (0.4, `api/task.py`, MultipleChoiceTask), of which tables usually print acc_norm for ARC and
HellaSwag and acc for COPA. A coin scores one in as many as there are choices. Of n independent items the standard error
is about 0.5 / sqrt(n): 6 points for the 60 bundled endings, which can show a broken model, not rank good ones.

Two models answer the same items, so they are compared item by item: only those that one has right and the other wrong
say anything, and if both were as good each of these would be a coin (McNemar 1947, the exact test).
"""

from __future__ import annotations

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
from quantlab.evaluate.statistics import sign_test
from quantlab.evaluate.task_files import Item, read_items


@dataclass(frozen=True)
class Choice:
    """A context with the ends that may follow: token ids, the ends' lengths in letters, the number of the right one."""

    fork: Fork
    letters: tuple[int, ...]
    right: int


@dataclass(frozen=True)
class Scores:
    """Whether each item was answered right, bool [items], by the two ways to score."""

    acc: Tensor
    acc_norm: Tensor


def read_choices(tokenizer: Any, context: int, path: Path | None = None) -> list[Choice]:
    """The items of a file (quantlab.evaluate.task_files says which), or the bundled story endings, as tokens.

    The end is joined to the context by a space. Raises QuantlabError when an item is longer than `context` tokens.
    """
    path = path or bundled("assets/stories/endings.jsonl")
    return [_choice(tokenizer, item, context, f"{path}, item {at}") for at, item in enumerate(read_items(path), 1)]


def _choice(tokenizer: Any, item: Item, context: int, where: str) -> Choice:
    """Tokens of the whole texts, cut where the context's tokens end, or earlier where an end changes them."""
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    count = len(bos) + len(tokenizer(item.context, add_special_tokens=False)["input_ids"])
    wholes = [
        [*bos, *tokenizer(f"{item.context} {end}", add_special_tokens=False)["input_ids"]] for end in item.choices
    ]
    if (longest := max(map(len, wholes))) > context:
        raise QuantlabError(f"{where} takes {longest} tokens, the context is {context}; choose a longer one")
    shared = sum(
        1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(wholes[0][:count], *wholes[1:], strict=False))
    )
    if not shared:
        raise QuantlabError(f"{where} has no token before its choices, and the model no BOS; give it a context")
    ends = tuple(tuple(whole[shared:]) for whole in wholes)
    return Choice(Fork(tuple(wholes[0][:shared]), ends), tuple(map(len, item.choices)), item.right)


def score_choices(source: Source, choices: Sequence[Choice], step: Callable[[], None] = lambda: None) -> Scores:
    """Whether the right end scores highest, for each item; `step` is called after each."""
    won: list[tuple[bool, bool]] = []
    with one_thread():
        for choice, logits in zip(choices, source.forks([choice.fork for choice in choices]), strict=True):
            total = [_log_p(*pair) for pair in zip(logits, choice.fork.ends, strict=True)]
            each = [score / letters for score, letters in zip(total, choice.letters, strict=True)]
            won.append((_first(total, choice.right), _first(each, choice.right)))
            step()
    acc, acc_norm = torch.tensor(won).reshape(-1, 2).T
    return Scores(acc, acc_norm)


def _log_p(logits: Tensor, end: tuple[int, ...]) -> float:
    """Log-probability of an end, nats. logits [t, vocab] predict its t tokens."""
    log_p = logits.double().log_softmax(-1)
    return float(log_p.gather(1, torch.tensor(end)[:, None]).sum())


def _first(scores: Sequence[float], right: int) -> bool:
    """Whether the right one is above all others; a tie is not won."""
    return all(scores[right] > score for at, score in enumerate(scores) if at != right)


def mcnemar(x: Tensor, y: Tensor) -> float:
    """How often chance alone would part the answers x and y, bool [items], as far as they are: p, two-sided and exact.

    >>> mcnemar(torch.tensor([True] * 8), torch.tensor([True] * 2 + [False] * 6))  # 6 of 6 coins alike
    0.03125
    """
    if x.shape != y.shape:
        raise ValueError(f"answers to {x.numel()} and {y.numel()} items are not to the same items")
    return sign_test(int((x & ~y).sum()), int((y & ~x).sum()))
