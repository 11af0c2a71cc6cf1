"""What lesson 5 measures here: eight stories one after the other and together, the cost of a step, a live server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache

from quantlab.lesson.lesson2.story import story_model
from quantlab.models.samples import openings
from quantlab.serve.batching import Measured, StepCost

TOKENS = 48  # of each answer


def eight() -> list[str]:
    """Eight beginnings of stories."""
    return openings()[:8]


def told(prompts: Sequence[str], tokens: int = TOKENS) -> float:
    """Tokens a second of one static batch: transformers' generate on all prompts at once, greedy."""
    loaded: Any = story_model().loaded
    ids = [loaded.tokenizer(prompt)["input_ids"] for prompt in prompts]
    width = max(map(len, ids))
    filled = torch.tensor([[1] * (width - len(one)) + one for one in ids])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids])
    began = time.perf_counter()
    loaded.model.generate(filled, attention_mask=mask, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens,
                          pad_token_id=1)  # fmt: skip
    return len(prompts) * tokens / (time.perf_counter() - began)


def naive(prompts: Sequence[str], tokens: int = TOKENS) -> float:
    """The same, one prompt after the other."""
    return len(prompts) / sum(1 / told([prompt], tokens) for prompt in prompts)


@lru_cache(maxsize=1)
def step_cost(at_once: tuple[int, ...] = (1, 2, 4, 8, 16), context: int = 64, repeats: int = 7) -> StepCost:
    """The cost of a step of the story model on this machine, fitted to medians of measured steps."""
    found = []
    for texts in at_once:
        found.append(Measured(0, texts, texts * context, _seconds(texts, context, 1, repeats)))
        found.append(Measured(texts * context, 0, 0, _seconds(texts, 0, context, repeats)))
    return StepCost.fit(found)


def _seconds(texts: int, context: int, new: int, repeats: int) -> float:
    """Median seconds of a step that adds `new` tokens to each of `texts` texts of `context` tokens."""
    model: Any = story_model().loaded.model
    cache, runs = DynamicCache(), []
    with torch.inference_mode():
        if context:
            model(torch.full((texts, context), 10), past_key_values=cache, use_cache=True)
        for _ in range(repeats):
            began = time.perf_counter()
            model(torch.full((texts, new), 10), past_key_values=cache, use_cache=True, logits_to_keep=1)
            runs.append(time.perf_counter() - began)
            cache.crop(-new)
    return median(runs)
