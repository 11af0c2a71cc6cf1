"""Exercise: texts that fit into a paged KV cache."""

from __future__ import annotations

import random
from collections.abc import Sequence

from quantlab.lesson.exercises import Exercise, judge_on_cases, source
from quantlab.lesson.judging import Case


def fitting(lengths: Sequence[int], room: int, block: int) -> int:
    """How many of the texts, in this order, fit into a cache of `room` tokens in blocks of `block`."""
    blocks = room // block
    count = 0
    for length in lengths:
        blocks -= -(-length // block)  # the last block of a text may be half empty
        if blocks < 0:
            break
        count += 1
    return count


def _tokens(lengths: Sequence[int], room: int, block: int) -> int:
    return fitting(lengths, room, 1)


def _reserved(lengths: Sequence[int], room: int, block: int) -> int:
    return min(len(lengths), room // max(lengths))


def _down(lengths: Sequence[int], room: int, block: int) -> int:
    return fitting([length // block * block for length in lengths], room, block)


def _skips(lengths: Sequence[int], room: int, block: int) -> int:
    blocks, count = room // block, 0
    for length in sorted(lengths):
        if (needed := -(-length // block)) <= blocks:
            blocks, count = blocks - needed, count + 1
    return count


def cases(rng: random.Random) -> list[Case]:
    """Many short texts of which each wastes nearly a block, one giant in front, and a mixture."""
    short = [16 * rng.randint(1, 2) + 1 for _ in range(60)]
    giant = [700, *[rng.randint(20, 60) for _ in range(30)], 700, *[30] * 8]
    mixed = [rng.randint(10, 400) for _ in range(40)]
    return [Case(f"texts of {', '.join(map(str, texts[:4]))}, ... tokens, room for {room}, blocks of {block}",
                 (texts, room, block), fitting(texts, room, block))
            for texts, room, block in ((short, 1024, 16), (giant, 2048, 16), (mixed, 4096, 32))]  # fmt: skip


exercise = Exercise(
    id="lesson5-blocks",
    title="Pages",
    question=(
        "vLLM cuts the cache into **blocks** of some tokens, like pages of a memory, and gives a text the next block "
        "when its last one is full. `lengths` are the tokens of waiting texts, first come first served; who does not "
        "fit makes all behind wait too. Write `fitting(lengths, room, block)`: how many texts are in a "
        "cache of `room` tokens."
    ),
    starter='''\
def fitting(lengths, room, block):
    """How many of the texts, in this order, fit into a cache of `room` tokens in blocks of `block`."""
    ...
''',
    answer=fitting,
    hints=(
        "The cache has `room // block` blocks.",
        "A text needs `-(-length // block)` of them: rounded up.",
        "Walk through `lengths`, take blocks away, and stop at the first text for which there are not enough.",
    ),
    known_wrong=((_tokens, "no blocks"), (_reserved, "reserved"), (_down, "rounded down"), (_skips, "overtaking")),
    diagnoses={
        "no blocks": "A block belongs to one text, even where the text fills one token of it: round each text up.",
        "reserved": "That is how it was before: as much for each as for the longest. Pages give each what it has.",
        "rounded down": "A text's last, half empty block counts as well: round up.",
        "overtaking": "First come, first served: nobody behind one that waits gets in. (Smaller ones would starve it.)",
    },
    judge=judge_on_cases(cases, tolerance=0),
    solution_code=source(fitting),
)
