"""Drill: the size of a head guessed as hidden_size / num_attention_heads.

Published in LMCache's KV cache calculator (LMCache/LMCache issue 688, 2025-05): right for Llama, 1.6 times too little
for Qwen3-4B. NVIDIA/Model-Optimizer issue 2482 (2026-09) has the same line, 25% too much for Mistral Small.
"""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.plan.memory import kv_bytes_per_token
from quantlab.plan.models import shape_of

Config = dict[str, int]


def token_bytes(config: Config) -> float:
    """Bytes that one token leaves in the KV cache, in 16 bits; a config without head_dim means hidden / heads."""
    guess = config["hidden_size"] // config["num_attention_heads"]
    head_dim = config.get("head_dim") or guess
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim * 2


def _guess(config: Config) -> int:
    return config["hidden_size"] // config["num_attention_heads"]


def _published(config: Config) -> float:
    return 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * _guess(config)


def _always_128(config: Config) -> float:
    return 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * 128


def _128_where_absent(config: Config) -> float:
    return 4 * config["num_hidden_layers"] * config["num_key_value_heads"] * (config.get("head_dim") or 128)


def _larger(config: Config) -> float:
    return (
        4
        * config["num_hidden_layers"]
        * config["num_key_value_heads"]
        * max(config.get("head_dim") or 0, _guess(config))
    )


def _query_heads(config: Config) -> float:
    return token_bytes(config) * config["num_attention_heads"] / config["num_key_value_heads"]


def _one_of_two(config: Config) -> float:
    return token_bytes(config) / 2


def _made(rng: random.Random, at: int, stated: int | None) -> Case:
    """A config whose head_dim is stated, larger or smaller than the guess, or left out (None)."""
    kv_heads, group, layers = rng.choice((2, 4, 8)), rng.choice((4, 5, 8)), rng.randint(16, 64)
    heads, guess = kv_heads * group, rng.choice((48, 80, 96, 160))
    config = {"num_hidden_layers": layers, "hidden_size": heads * guess, "num_attention_heads": heads,
              "num_key_value_heads": kv_heads, **({"head_dim": stated} if stated else {})}  # fmt: skip
    return Case(f"a random config ({at})", (config,), 4.0 * layers * kv_heads * (stated or guess))


def cases(rng: random.Random) -> list[Case]:
    """Qwen3-4B (128, not 80) and Llama-3.1-8B by the planner, then made ones: stated above, below, and not at all."""
    found = []
    for name in ("qwen3-4b", "llama-3.1-8b"):
        shape = shape_of(name)
        config = {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden, "num_attention_heads": shape.heads,
                  "num_key_value_heads": shape.kv_heads}  # fmt: skip
        if shape.head_dim * shape.heads != shape.hidden:
            config["head_dim"] = shape.head_dim
        found.append(Case(name, (config,), float(kv_bytes_per_token(shape))))
    return [*found, *(_made(rng, at, stated) for at, stated in enumerate((256, 40, None, 128, None), start=1))]


exercise = Exercise(
    id="lesson1-guessed-head",
    title="A broken calculator: right for Llama, wrong for Qwen3-4B",
    question=(
        "LMCache's calculator had this line until issue 688: right for Llama, 1.6 times too little for Qwen3-4B.\n\n"
        "```python\n"
        "def token_bytes(config):\n"
        '    head = config["hidden_size"] // config["num_attention_heads"]\n'
        '    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head * 2\n'
        "```\n\n"
        "Mend it for every config: some state a `head_dim`, larger or smaller than the guess, and some do not have the "
        "key at all."
    ),
    starter='''\
def token_bytes(config):
    """Bytes that one token leaves in the KV cache, in 16 bits."""
    ...
''',
    answer=token_bytes,
    hints=(
        "Look for a key of Qwen3-4B's config.json that the broken function never reads.",
        "`head_dim` counts where it is there. Where it is not, transformers takes hidden_size // num_attention_heads.",
        '`config.get("head_dim")` is None where the key is missing: `config.get("head_dim") or guess`.',
    ),
    known_wrong=(
        (_published, "published"),
        (_always_128, "always 128"),
        (_128_where_absent, "128 where absent"),
        (_larger, "the larger"),
        (_query_heads, "query heads"),
        (_one_of_two, "one of two"),
    ),
    diagnoses={
        "published": "That is what was published: it guesses the size of a head even where the config states it.",
        "always 128": "128 is the head of the best-known models, and of no other. Read it from the config.",
        "128 where absent": "Where `head_dim` is missing the guess is the rule: hidden_size // num_attention_heads.",
        "the larger": (
            "You took the larger of guess and `head_dim`. A stated one counts even where it is smaller: Mistral Small "
            "has 128 where the guess is 160."
        ),
        "query heads": "The size of a head is right now, but you count query heads: `num_key_value_heads` are cached.",
        "one of two": "Exactly half: a key and a value, of two bytes each.",
    },
    judge=judge_on_cases(cases),
)
