"""Drill: a data sheet's sparse TFLOPS taken for dense ones.

Published in PyTorch 2.13, torch/_inductor/analysis/device_info.py: the L4 is listed with 242 TFLOPS in bf16 and no
`tops_sparsity_factor`, so that `datasheet_tops`, "the theoretical *dense* TFLOPS", returns the sparse figure of its
data sheet, twice what it can do (and the bandwidth of an H100 stands beside it: 3,350 GB/s instead of 300).
"""

from __future__ import annotations

import random

from quantlab.lesson.exercises import Exercise, judge_on_cases
from quantlab.lesson.judging import Case
from quantlab.plan.gpus import gpu

Card = dict[str, float]


def prefill_seconds(card: Card, parameters: int, tokens: int) -> float:
    """The least time to read a prompt: 2 operations for each weight and token, at the dense rate of the card."""
    dense = card["tflops"] / 2 if card["with_sparsity"] else card["tflops"]
    return 2 * parameters * tokens / (dense * 1e12)


def _published(card: Card, parameters: int, tokens: int) -> float:
    return 2 * parameters * tokens / (card["tflops"] * 1e12)


def _always_halved(card: Card, parameters: int, tokens: int) -> float:
    return 2 * parameters * tokens / (card["tflops"] / 2 * 1e12)


def _doubled(card: Card, parameters: int, tokens: int) -> float:
    return 2 * parameters * tokens / (card["tflops"] * (2 if card["with_sparsity"] else 1) * 1e12)


def _one_operation(card: Card, parameters: int, tokens: int) -> float:
    return prefill_seconds(card, parameters, tokens) / 2


def _one_token(card: Card, parameters: int, tokens: int) -> float:
    return prefill_seconds(card, parameters, 1)


def _tera(card: Card, parameters: int, tokens: int) -> float:
    return prefill_seconds(card, parameters, tokens) * 1e12


def cases(rng: random.Random) -> list[Case]:
    """Data sheets as they are printed: L4, H100 and L40S with sparsity, A10 and A100 without; then made ones."""
    printed = (
        ("l4", 242, True),
        ("a10", 125, False),
        ("a100-80", 312, False),
        ("l40s", 724, True),
        ("h100-nvl", 1671, True),
    )
    found = []
    for name, tflops, sparse in printed:
        card, tokens = {"tflops": tflops, "with_sparsity": sparse}, rng.randint(500, 8000)
        found.append(Case(name, (card, 8_030_261_248, tokens), 2 * 8_030_261_248 * tokens / gpu(name).rate_16))
    for at, sparse in enumerate((True, False, True), start=1):
        rate, weights, tokens = rng.randint(50, 2000), rng.randint(10**9, 10**11), rng.randint(100, 10_000)
        right = 2 * weights * tokens / (rate * 1e12) * (2 if sparse else 1)
        found.append(Case(f"a random card ({at})", ({"tflops": rate, "with_sparsity": sparse}, weights, tokens), right))
    return found


exercise = Exercise(
    id="lesson4-sparse-rate",
    title="A broken calculator: an L4 that is twice as fast as it is",
    question=(
        "PyTorch 2.13's table of cards gives the L4 242 TFLOPS in bf16 and calls them dense. Its data sheet prints 242 "
        'with the note "with sparsity": for matrices with half of their weights zero. A language model\'s are dense, '
        "at half that rate; other data sheets print dense rates.\n\n"
        "```python\n"
        "def prefill_seconds(card, parameters, tokens):\n"
        '    return 2 * parameters * tokens / (card["tflops"] * 1e12)\n'
        "```\n\n"
        "Mend it. `card` has `tflops` as printed and `with_sparsity`, whether the data sheet says so."
    ),
    starter='''\
def prefill_seconds(card, parameters, tokens):
    """The least time to read a prompt of so many tokens, in seconds."""
    ...
''',
    answer=prefill_seconds,
    hints=(
        "What does the card really multiply, when no weight is zero?",
        "Where `with_sparsity` is true, the dense rate is half of what is printed. Elsewhere it is as printed.",
        "2 x parameters x tokens operations, divided by operations a second: `tflops` are 10^12 of them.",
    ),
    known_wrong=(
        (_published, "published"),
        (_always_halved, "always halved"),
        (_doubled, "doubled"),
        (_one_operation, "one operation"),
        (_one_token, "one token"),
        (_tera, "tera"),
    ),
    diagnoses={
        "published": "That is what was published: the printed rate, whether sparse or not.",
        "always halved": "You halve every rate. Some data sheets print dense rates: `with_sparsity` tells.",
        "doubled": "You doubled the sparse rate. It is the dense one that counts, and that is half.",
        "one operation": "A weight costs two operations for each token: a multiplication and an addition.",
        "one token": "That is the time for one token. The prompt has `tokens` of them.",
        "tera": "TFLOPS are 10^12 operations a second: the factor is missing.",
    },
    judge=judge_on_cases(cases, tolerance=2e-3),  # data sheets round: 1,671 is printed for 2 x 835.5
)
