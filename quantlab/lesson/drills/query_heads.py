"""Drill: a KV cache counted with the whole hidden size, as if no head shared anything.

Published as examples/kv_cache_memory_estimator.py in vllm-project/vllm pull request 29736 (2025-11; closed after the
review pointed it out): `2 * hidden_size` numbers a token and layer, 4 times too many for Llama-3-8B.
"""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.plan.memory import kv_bytes_per_token
from quantlab.plan.models import shape_of

Config = dict[str, int]


def kv_bytes(config: Config, tokens: int) -> float:
    """Bytes of KV cache of so many tokens, in 16 bits."""
    head = config["hidden_size"] // config["num_attention_heads"]
    numbers = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head
    return numbers * 2 * tokens


def _published(config: Config, tokens: int) -> float:
    return 2 * config["num_hidden_layers"] * config["hidden_size"] * 2 * tokens


def _heads_twice(config: Config, tokens: int) -> float:
    return _published(config, tokens) * config["num_attention_heads"]


def _divided_by_kv_heads(config: Config, tokens: int) -> float:
    return _published(config, tokens) / config["num_key_value_heads"]


def _one_of_two(config: Config, tokens: int) -> float:
    return kv_bytes(config, tokens) / 2


def _numbers(config: Config, tokens: int) -> float:
    return kv_bytes(config, tokens) / 4


def _one_token(config: Config, tokens: int) -> float:
    return kv_bytes(config, 1)


def cases(rng: random.Random) -> list[Case]:
    """Three real models by the planner, then made ones: head_dim is hidden / heads in all of them."""
    found = []
    for name in ("llama-3-8b", "llama-3-70b", "qwen2.5-7b"):
        shape, tokens = shape_of(name), rng.choice((1000, 8192))
        config = {"num_hidden_layers": shape.layers, "hidden_size": shape.hidden,
                  "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}  # fmt: skip
        found.append(Case(name, (config, tokens), float(tokens * kv_bytes_per_token(shape))))
    for at in range(5):
        kv_heads, group, head, layers = (
            rng.choice((2, 4, 8)),
            rng.choice((3, 4, 7)),
            rng.choice((64, 128)),
            rng.randint(16, 90),
        )
        config = {"num_hidden_layers": layers, "hidden_size": kv_heads * group * head,
                  "num_attention_heads": kv_heads * group, "num_key_value_heads": kv_heads}  # fmt: skip
        tokens = rng.randint(100, 100_000)
        found.append(Case(f"a random config ({at + 1})", (config, tokens), 4.0 * layers * kv_heads * head * tokens))
    return found


exercise = Exercise(
    id="lesson1-query-heads",
    title="A broken calculator: 4 times too much for Llama-3-8B",
    question=(
        "This estimator was offered to vLLM as an example (pull request 29736). For Llama-3-8B it says 4 times what "
        "vLLM allocates, for Llama-2-7B it is right.\n\n"
        "```python\n"
        "def kv_bytes(config, tokens):\n"
        '    return 2 * config["num_hidden_layers"] * config["hidden_size"] * 2 * tokens\n'
        "```\n\n"
        "Mend it: bytes of KV cache of `tokens` tokens in 16 bits. `config` has `num_hidden_layers`, `hidden_size`, "
        "`num_attention_heads` and `num_key_value_heads`; a head has `hidden_size / num_attention_heads` numbers in "
        "these models."
    ),
    starter='''\
def kv_bytes(config, tokens):
    """Bytes of KV cache of so many tokens, in 16 bits."""
    ...
''',
    answer=kv_bytes,
    hints=(
        "What do Llama-2-7B and Llama-3-8B have in common, and where do their configs differ?",
        "`hidden_size` is all query heads together. Keys and values exist once for each of `num_key_value_heads`.",
        "2 x layers x num_key_value_heads x (hidden_size / num_attention_heads) numbers a token, 2 bytes each.",
    ),
    known_wrong=(
        (_published, "published"),
        (_heads_twice, "heads twice"),
        (_divided_by_kv_heads, "divided by KV heads"),
        (_one_of_two, "one of two"),
        (_numbers, "one byte of one"),
        (_one_token, "one token"),
    ),
    diagnoses={
        "published": (
            "That is what was published: it gives every query head a key and a value of its own. With grouped queries "
            "only `num_key_value_heads` of them exist."
        ),
        "heads twice": (
            "`hidden_size` has all heads in it already, and you multiply by their number once more. Another published "
            "estimator did so (jranaraki/vllm-fit, issue 2)."
        ),
        "divided by KV heads": (
            "You divided by `num_key_value_heads`. The cache grows with them: divide by `num_attention_heads`, which "
            "gives one head, and multiply by `num_key_value_heads`."
        ),
        "one of two": "Exactly half: a key *and* a value are kept, of two bytes each.",
        "one byte of one": "A quarter: 2 for key and value, and 2 bytes for each number, are both missing.",
        "one token": "Those are the bytes of one token. There are `tokens` of them.",
    },
    judge=judge_on_cases(cases),
)
