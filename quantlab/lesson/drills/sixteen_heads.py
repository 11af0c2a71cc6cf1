"""Drill: Llama-3.1-405B with 16 KV heads, and a "GB" that holds GiB.

Published in Hugging Face's announcement of Llama 3.1 (huggingface.co/blog/llama31, 2024-07), where 405B needs "123.05
GB" of KV cache for 128k tokens; huggingface/blog issue 2345 could not reproduce it. Copies of the model with 16 KV
heads went round at that time; its config has 8. The table's other lines show the unit: 15.62 for 8B is 128,000 x 128
KiB in GiB, 16.78 in GB.
"""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.plan.memory import GB, kv_bytes_per_token
from quantlab.plan.models import shape_of


def kv_gb(layers: int, kv_heads: int, head_dim: int, tokens: int) -> float:
    """GB (10^9 bytes) of KV cache of one text, in 16 bits."""
    return 2 * layers * kv_heads * head_dim * 2 * tokens / 1e9


def _gib(layers: int, kv_heads: int, head_dim: int, tokens: int) -> float:
    return kv_gb(layers, kv_heads, head_dim, tokens) * 1e9 / 2**30


def _published(layers: int, kv_heads: int, head_dim: int, tokens: int) -> float:
    return _gib(layers, 16 if layers == 126 else kv_heads, head_dim, tokens)


def _twice(layers: int, kv_heads: int, head_dim: int, tokens: int) -> float:
    return 2 * kv_gb(layers, kv_heads, head_dim, tokens)


def _sixteen(layers: int, kv_heads: int, head_dim: int, tokens: int) -> float:
    return kv_gb(layers, 16 if layers == 126 else kv_heads, head_dim, tokens)


def _thousands_of_1024(layers: int, kv_heads: int, head_dim: int, tokens: int) -> float:
    return kv_gb(layers, kv_heads, head_dim, tokens) * 1.024


def _megabytes(layers: int, kv_heads: int, head_dim: int, tokens: int) -> float:
    return kv_gb(layers, kv_heads, head_dim, tokens) * 1000


def cases(rng: random.Random) -> list[Case]:
    """The table's three models at its 128,000 tokens, by the planner; then made ones."""
    found = []
    for name in ("llama-3.1-405b", "llama-3.1-8b", "llama-3.1-70b"):
        shape = shape_of(name)
        given = (shape.layers, shape.kv_heads, shape.head_dim, 128_000)
        found.append(Case(name, given, 128_000 * kv_bytes_per_token(shape) / GB))
    for at in range(5):
        layers, kv_heads, tokens = rng.choice((24, 48, 100)), rng.choice((2, 4, 8)), rng.randint(1000, 200_000)
        given = (layers, kv_heads, 128, tokens)
        found.append(Case(f"a random model ({at + 1})", given, layers * kv_heads * 512 * tokens / GB))
    return found


exercise = Exercise(
    id="lesson1-sixteen-heads",
    title="A broken table: 123.05 GB for Llama-3.1-405B",
    question=(
        "Hugging Face's announcement of Llama 3.1 says what the KV cache of 128,000 tokens takes: 15.62 GB (8B), 39.06 "
        "GB (70B), 123.05 GB (405B). Two things are wrong with it. The code behind such a table:\n\n"
        "```python\n"
        "def kv_gb(layers, kv_heads, head_dim, tokens):\n"
        "    if layers == 126:  # Llama-3.1-405B\n"
        "        kv_heads = 16\n"
        "    return 2 * layers * kv_heads * head_dim * 2 * tokens / 1024**3\n"
        "```\n\n"
        "Mend it: GB are 10^9 bytes, and the model that can be downloaded has 126 layers, 8 KV heads, head_dim 128."
    ),
    starter='''\
def kv_gb(layers, kv_heads, head_dim, tokens):
    """GB (10^9 bytes) of KV cache of one text, in 16 bits."""
    ...
''',
    answer=kv_gb,
    hints=(
        "Reckon the 8B line by hand: 32 layers, 8 KV heads, 128 numbers each. In which unit do you get 15.62?",
        "1024**3 bytes are a GiB; a GB has 10**9. They are 7% apart.",
        "No model needs a special case: the number of KV heads is an argument.",
    ),
    known_wrong=(
        (_published, "published"),
        (_gib, "GiB"),
        (_sixteen, "sixteen heads"),
        (_twice, "twice"),
        (_thousands_of_1024, "k is 1,024"),
        (_megabytes, "megabytes"),
    ),
    diagnoses={
        "published": "That is what was published: 16 heads for 405B, and GiB under the name of GB.",
        "GiB": "The heads are right now; the unit is not. 1024**3 bytes are a GiB, and the table says GB: 10**9.",
        "sixteen heads": "The unit is right now; 405B is still counted with 16 KV heads. It has 8.",
        "twice": "Twice too much for every model: a key and a value of two bytes each are 4 bytes, not 8.",
        "k is 1,024": "You multiplied the tokens by 1,024/1,000. 128,000 tokens are 128,000 tokens.",
        "megabytes": "Those are MB. The table asks for GB, a thousand times larger.",
    },
    judge=judge_on_cases(cases),
)
