"""Exercise: KiB of KV cache for one token, from a config.json. The check compares with the planner."""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.plan.memory import kv_bytes_per_token
from quantlab.plan.models import ModelShape, shape_of


def kv_kib(config: dict[str, int]) -> float:
    """KiB that one token leaves in the KV cache, in bf16."""
    of_one_head = 2 * config["head_dim"]  # a key and a value
    heads = config["num_hidden_layers"] * config["num_key_value_heads"]
    return of_one_head * heads * 2 / 1024  # two bytes each


def _all_heads(config: dict[str, int]) -> float:
    return kv_kib(config) * config["num_attention_heads"] / config["num_key_value_heads"]


def _one_of_two(config: dict[str, int]) -> float:
    return kv_kib(config) / 2


def _guessed_head_dim(config: dict[str, int]) -> float:
    return kv_kib(config) / config["head_dim"] * (config["hidden_size"] // config["num_attention_heads"])


def _whole_hidden(config: dict[str, int]) -> float:
    return 2 * config["num_hidden_layers"] * config["hidden_size"] * 2 / 1024


def _one_layer(config: dict[str, int]) -> float:
    return kv_kib(config) / config["num_hidden_layers"]


def _bits(config: dict[str, int]) -> float:
    return kv_kib(config) * 8


def _kilobytes(config: dict[str, int]) -> float:
    return kv_kib(config) * 1024 / 1000


def _bytes(config: dict[str, int]) -> float:
    return kv_kib(config) * 1024


def config_of(shape: ModelShape) -> dict[str, int]:
    """The keys of a config.json that the exercise needs."""
    return {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
    }


def cases(rng: random.Random) -> list[Case]:
    """Three real models, then five that nobody has trained."""
    shapes = [shape_of(name) for name in ("llama-3-70b", "qwen3-4b", "llama-2-13b")]
    for at in range(5):
        kv_heads, head_dim = rng.choice((4, 8, 16)), rng.choice((64, 128, 256))  # whole KiB, so that `//` is right too
        heads = kv_heads * rng.choice((2, 4, 8))
        hidden = heads * head_dim * rng.choice((5, 6)) // 8
        name, layers = f"a random config ({at + 1})", rng.randint(8, 96)
        shapes.append(
            ModelShape(name, layers, hidden, 4 * hidden, heads, kv_heads, head_dim, vocab=32000, context=4096)
        )
    return [Case(shape.name, (config_of(shape),), kv_bytes_per_token(shape) / 1024) for shape in shapes]


exercise = Exercise(
    id="lesson1-kv-cache",
    title="The KV cache of a real config",
    question=(
        "Each token leaves a key and a value behind, in every layer, for every KV head. Write `kv_kib(config)`: the "
        "**KiB** (1,024 bytes) that one token takes in bf16. `config` holds the numbers of a real `config.json`: "
        "`num_hidden_layers`, `hidden_size`, `num_attention_heads`, `num_key_value_heads` and `head_dim`. Not all of "
        "them matter."
    ),
    starter='''\
def kv_kib(config):
    """KiB that one token leaves in the KV cache, in bf16."""
    ...
''',
    answer=kv_kib,
    hints=(
        "Count numbers first, bytes afterwards: how many numbers does one KV head of one layer keep for a token?",
        "A key and a value, each of `head_dim` numbers, for each of `num_key_value_heads` heads, in each layer.",
        "Numbers x 2 bytes (bf16) / 1024. For llama-3-70b that is 320.",
    ),
    known_wrong=(
        (_all_heads, "all heads"),
        (_one_of_two, "one of two"),
        (_guessed_head_dim, "guessed head_dim"),
        (_whole_hidden, "whole hidden"),
        (_one_layer, "one layer"),
        (_bits, "bits"),
        (_kilobytes, "kilobytes"),
        (_bytes, "bytes"),
    ),
    diagnoses={
        "all heads": (
            "You counted every attention head. With grouped-query attention several query heads share one key and "
            "value head, and only those are cached: `num_key_value_heads`. Many calculators on the web do the same, "
            "and say 8 times too much for Llama-3-70B."
        ),
        "one of two": "Exactly half: attention needs a key and a value of every token, so there are 2 of each.",
        "guessed head_dim": (
            "You took `hidden_size // num_attention_heads` for the size of a head. It is a key of its own: Qwen3-4B "
            "has 2560 / 32 = 80 there, and a `head_dim` of 128."
        ),
        "whole hidden": (
            "You took the whole `hidden_size`, as if every query head had a key and value of its own. Count "
            "`num_key_value_heads` x `head_dim` instead."
        ),
        "one layer": "That is one layer. Every one of the `num_hidden_layers` keeps its own keys and values.",
        "bits": "Exactly 8 times too much: those are bits. A bf16 number takes 16 bits, that is 2 bytes.",
        "kilobytes": "Those are kB of 1,000 bytes. A KiB has 1,024: the same trap as GB and GiB, which are 7% apart.",
        "bytes": "Those are bytes; the question asks for KiB, of 1,024 bytes each.",
    },
    judge=judge_on_cases(cases),
)
