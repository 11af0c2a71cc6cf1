"""Drill: a sliding window ignored, so that every layer is charged with the whole text.

Published in Ollama until pull request 9987 (2025-03) and in gguf-parser-go (issue 32, 2026-08); the other way round,
with the windowed layers left out, in hf-mem (issue 60, 2026-05). For Gemma-3-27B at 128k tokens, unsloth's estimator
said 81.38 GiB of KV cache, and 10.41 after pull request 4757: it had guessed the size of a head as well.
"""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case

Config = dict[str, int]


def kv_bytes(config: Config, tokens: int) -> float:
    """Bytes of KV cache of one text, in 16 bits, when every `pattern`-th layer keeps it all and the others a window."""
    full = config["layers"] // config["pattern"]
    windowed = config["layers"] - full
    seen = full * tokens + windowed * min(tokens, config["window"])
    return 2 * config["kv_heads"] * config["head_dim"] * 2 * seen


def _of(config: Config, layer_tokens: float) -> float:
    return float(4 * config["kv_heads"] * config["head_dim"] * layer_tokens)


def _published(config: Config, tokens: int) -> float:
    return _of(config, config["layers"] * tokens)


def _all_windowed(config: Config, tokens: int) -> float:
    return _of(config, config["layers"] * min(tokens, config["window"]))


def _full_only(config: Config, tokens: int) -> float:
    return _of(config, config["layers"] // config["pattern"] * tokens)


def _exchanged(config: Config, tokens: int) -> float:
    full = config["layers"] // config["pattern"]
    return _of(config, (config["layers"] - full) * tokens + full * min(tokens, config["window"]))


def _window_always_full(config: Config, tokens: int) -> float:
    full = config["layers"] // config["pattern"]
    return _of(config, full * tokens + (config["layers"] - full) * config["window"])


def _one_more(config: Config, tokens: int) -> float:
    full = -(-config["layers"] // config["pattern"])
    return _of(config, full * tokens + (config["layers"] - full) * min(tokens, config["window"]))


def cases(rng: random.Random) -> list[Case]:
    """Gemma-3-27B and Gemma-2-9B from their configs; then made ones, texts shorter than the window among them."""
    gemma_3 = {"layers": 62, "kv_heads": 16, "head_dim": 128, "window": 1024, "pattern": 6}
    gemma_2 = {"layers": 42, "kv_heads": 8, "head_dim": 256, "window": 4096, "pattern": 2}
    found = [
        Case("gemma-3-27b at 131,072 tokens", (gemma_3, 131_072), _layer_by_layer(gemma_3, 131_072)),
        Case("gemma-3-27b at 500 tokens", (gemma_3, 500), _layer_by_layer(gemma_3, 500)),
        Case("gemma-2-9b at 8,192 tokens", (gemma_2, 8192), _layer_by_layer(gemma_2, 8192)),
    ]
    for at in range(5):
        pattern = rng.choice((2, 4, 6))
        config = {"layers": pattern * rng.randint(4, 12) + 1, "kv_heads": rng.choice((2, 4, 8)), "head_dim": 128,
                  "window": rng.choice((512, 4096)), "pattern": pattern}  # fmt: skip
        tokens = rng.choice((rng.randint(50, 400), rng.randint(8000, 100_000)))
        found.append(Case(f"a random config ({at + 1})", (config, tokens), _layer_by_layer(config, tokens)))
    return found


def _layer_by_layer(config: Config, tokens: int) -> float:
    """The right number, found by walking the layers."""
    total = 0
    for layer in range(1, config["layers"] + 1):
        kept = tokens if layer % config["pattern"] == 0 else min(tokens, config["window"])
        total += 2 * config["kv_heads"] * config["head_dim"] * 2 * kept
    return float(total)


exercise = Exercise(
    id="lesson1-sliding-window",
    title="A broken calculator: 6 times too much for Gemma 3",
    question=(
        "Ollama (until pull request 9987) and others reckoned like this, and said that Gemma-3-27B needs 62 GiB of KV "
        "cache for 131,072 tokens. It needs 10.41.\n\n"
        "```python\n"
        "def kv_bytes(config, tokens):\n"
        '    return 2 * config["layers"] * config["kv_heads"] * config["head_dim"] * 2 * tokens\n'
        "```\n\n"
        "Mend it. Layers `pattern`, 2 x `pattern`, ... (counted from 1) keep the whole text; every other layer keeps "
        "its last `window` tokens. For Gemma-3-27B: 62 layers, pattern 6, window 1,024."
    ),
    starter='''\
def kv_bytes(config, tokens):
    """Bytes of KV cache of one text, in 16 bits."""
    ...
''',
    answer=kv_bytes,
    hints=(
        "Count layers first: how many of the 62 keep everything, how many a window?",
        "62 // 6 = 10 layers keep all `tokens`, 52 keep `min(tokens, window)` each.",
        "2 x kv_heads x head_dim x 2 bytes x (full x tokens + windowed x min(tokens, window)).",
    ),
    known_wrong=(
        (_published, "published"),
        (_all_windowed, "all windowed"),
        (_full_only, "full only"),
        (_exchanged, "exchanged"),
        (_window_always_full, "window always full"),
        (_one_more, "rounded up"),
    ),
    diagnoses={
        "published": "That is what was published: every layer is charged with the whole text.",
        "all windowed": "You gave every layer a window, as in Mistral. Here every `pattern`-th keeps the whole text.",
        "full only": (
            "The windowed layers are missing: they keep `window` tokens each. hf-mem left them out too (its issue 60)."
        ),
        "exchanged": "You exchanged the two kinds: one in `pattern` layers keeps everything, the others a window.",
        "window always full": "A text shorter than the window fills only a part of it: `min(tokens, window)`.",
        "rounded up": "62 / 6 is 10.3, and there are 10 full layers: the last ones have not reached the next multiple.",
    },
    judge=judge_on_cases(cases),
)
