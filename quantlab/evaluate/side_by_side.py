"""The same prompts, two models: what each says, and where they part.

    greedy       the most likely token each time: the texts are the same until one token's odds are nearly even
    sampled      with one seed, so that both models throw the same dice

Where two stories part says nothing about which is better: a different story is not a worse one. People must judge that,
without knowing whose it is (quantlab.evaluate.ballot).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import nn

from quantlab.errors import UsageError


@dataclass(frozen=True)
class SideBySide:
    """One prompt and two answers: the texts, their token ids, and how many tokens they begin with in common."""

    prompt: str
    texts: tuple[str, str]
    tokens: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def shared(self) -> int:
        """Tokens until they part; all of them where they do not."""
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*self.tokens, strict=False)))

    @property
    def same(self) -> bool:
        """Whether both say the same, token by token."""
        return self.tokens[0] == self.tokens[1]


def side_by_side(
    models: tuple[nn.Module, nn.Module],
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[SideBySide]:
    """Let both models go on from each prompt, by at most so many tokens.

    temperature: 0 is greedy; above, tokens are sampled, each prompt with a seed of its own, the same for both models.

    >>> from quantlab.models.load import load
    >>> tiny = load("tiny")                                                                      # doctest: +SKIP
    >>> side_by_side((tiny.model, twin), tiny.tokenizer, ["Once upon a time"])[0].shared         # doctest: +SKIP
    17
    """
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise UsageError("a prompt is empty; give each model something to go on from")
    if tokens < 1 or not 0 <= temperature < float("inf"):
        raise UsageError(
            f"tokens must be at least 1 and temperature a number from 0, got {tokens} and {temperature}; "
            "64 and 0 are usual"
        )
    return [_pair(models, tokenizer, prompt, tokens, temperature, seed + at) for at, prompt in enumerate(prompts)]


def _pair(
    models: tuple[nn.Module, nn.Module], tokenizer: Any, prompt: str, tokens: int, temperature: float, seed: int
) -> SideBySide:
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    start = [*bos, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    said = [_go_on(model, start, tokens, temperature, seed) for model in models]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in said]
    return SideBySide(prompt, (texts[0], texts[1]), (said[0], said[1]))


def _go_on(model: Any, start: list[int], tokens: int, temperature: float, seed: int) -> tuple[int, ...]:
    ids = torch.tensor([start], device=model.device)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with _dice(seed), torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, top_p=1.0, **how)
    return tuple(out[0, len(start) :].tolist())


@contextmanager
def _dice(seed: int) -> Iterator[None]:
    """torch's random numbers begin at this seed, and go on afterwards as if nothing had been."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
