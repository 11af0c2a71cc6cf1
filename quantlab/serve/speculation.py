"""Speculative decoding, greedy: somebody cheap guesses the next k tokens, the model checks all of them in one step.

A step of decoding reads all weights to make one token; checking k + 1 positions reads them once as well. Guesses are
kept as far as they are what the model itself would have said, and the model's own next token comes on top: every step
makes at least one, and **the text is the same** as without guessing, token by token (up to sums that are added in
another order).

    ngram_draft     the last few tokens stood here before: guess what followed (Saxena 2023, "Prompt lookup decoding";
                    vLLM's `{"method": "ngram"}`)
    model_draft     a small model guesses (Leviathan, Kalman and Matias 2023, arXiv 2211.17192; Chen et al. 2023)

    found = speculate(model, prompt, 64, ngram_draft, k=4)
    found.tokens, found.acceptance, found.tokens_per_step, expected_tokens(found.acceptance, 4)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from quantlab.errors import UsageError

Draft = Callable[[Sequence[int], int], list[int]]  # all tokens so far, k -> at most k guesses
NGRAM = 3  # tokens that must stand there before, at most


@dataclass(frozen=True)
class Speculated:
    """New tokens, steps of the model that made them (the prompt's too), guesses, guesses that were right, seconds."""

    tokens: tuple[int, ...]
    steps: int
    guessed: int
    right: int
    seconds: float

    @property
    def acceptance(self) -> float:
        """Share of the guesses that were right; 0 where nothing was guessed."""
        return self.right / self.guessed if self.guessed else 0.0

    @property
    def tokens_per_step(self) -> float:
        """New tokens a step of the model."""
        return len(self.tokens) / self.steps


def ngram_draft(tokens: Sequence[int], k: int) -> list[int]:
    """What followed the last place where the newest tokens stood before; longer matches first.

    >>> ngram_draft([7, 8, 9, 1, 2, 7, 8], 3)
    [9, 1, 2]
    >>> ngram_draft([1, 2, 3], 3)
    []
    """
    for size in range(min(NGRAM, len(tokens) - 1), 0, -1):
        newest = list(tokens[-size:])
        for start in range(len(tokens) - size - 1, -1, -1):
            if list(tokens[start : start + size]) == newest:
                return list(tokens[start + size : start + size + k])
    return []


def model_draft(model: Any) -> Draft:
    """Guesses of a smaller model with the same vocabulary, greedy; it keeps a cache of its own between the calls."""
    cache, known = DynamicCache(), list[int]()

    def draft(tokens: Sequence[int], k: int) -> list[int]:
        same = next((at for at, (a, b) in enumerate(zip(known, tokens, strict=False)) if a != b), len(known))
        same = min(same, len(known), len(tokens) - 1)
        _forget(cache, len(known) - same)
        del known[same:]
        guesses: list[int] = []
        new = list(tokens[same:])
        for _ in range(k):
            guesses += _likeliest(model, new, cache)[-1:]
            known.extend(new)
            new = guesses[-1:]
        return guesses

    return draft


def speculate(model: Any, prompt: Sequence[int], count: int, draft: Draft | None = None, k: int = 4) -> Speculated:
    """`count` new tokens after the prompt, greedy; without a draft, one token a step.

    Raises UsageError for an empty prompt, or counts below 1.
    """
    if not prompt or count < 1 or k < 1:
        raise UsageError(f"speculation needs a prompt, and counts from 1; got {len(prompt)} tokens, {count} and {k}")
    began, cache = time.perf_counter(), DynamicCache()
    tokens, steps, guessed, right = list(prompt), 0, 0, 0
    while (missing := len(prompt) + count - len(tokens)) > 0:
        guesses = draft(tokens, min(k, missing - 1))[: missing - 1] if draft and missing > 1 else []
        said = _likeliest(model, [*tokens[cache.get_seq_length() :], *guesses], cache)
        checked = said[-len(guesses) - 1 :]  # what the model says after the last token, and after each guess
        agreed = next((at for at, guess in enumerate(guesses) if guess != checked[at]), len(guesses))
        tokens += checked[: agreed + 1]
        _forget(cache, len(guesses) - agreed)  # of wrong guesses nothing stays
        steps, guessed, right = steps + 1, guessed + len(guesses), right + agreed
    return Speculated(tuple(tokens[len(prompt) :]), steps, guessed, right, time.perf_counter() - began)


def expected_tokens(acceptance: float, k: int) -> float:
    """Tokens a step where each of k guesses is right with this chance, whatever came before: (1 - a^(k+1)) / (1 - a).

    Leviathan et al. 2023, equation 1. Real guesses are not independent, so a measurement differs.

    >>> expected_tokens(0.5, 1), expected_tokens(1.0, 4)
    (1.5, 5.0)
    """
    if not 0 <= acceptance <= 1 or k < 0:
        raise UsageError(f"an acceptance is a share from 0 to 1, and k at least 0; got {acceptance} and {k}")
    return float(k + 1) if acceptance == 1 else (1 - acceptance ** (k + 1)) / (1 - acceptance)


def _forget(cache: DynamicCache, newest: int) -> None:
    if newest:
        cache.crop(-newest)


def _likeliest(model: Any, tokens: Sequence[int], cache: DynamicCache) -> list[int]:
    """The model's next token after each of these, which follow what is in the cache; all are in it afterwards."""
    with torch.inference_mode():
        out: Any = model(torch.tensor([list(tokens)]), past_key_values=cache, use_cache=True)
    found: list[int] = out.logits[0].argmax(-1).tolist()
    return found
