"""In which order do codes lie? The statistics behind `packing` and `neighbours`, and how sure they are.

Codes in the wrong order are all still there, each with its count and its range: nothing in one tensor shows it. What
shows it is *another* tensor that lies in the right order and knows the same rows or columns. So a number is computed
that is large only if the two agree, once for the order that the kind of the file says, and once for each other order:

    pair       the two nibbles of each byte exchanged          1 0 3 2 5 4 7 6
    bytes      the bytes of each word from the other end       6 7 4 5 2 3 0 1
    reversed   both: the word from the other end               7 6 5 4 3 2 1 0
    halves     the two halves of each word exchanged           4 5 6 7 0 1 2 3
    awq        AutoAWQ's interleave once too often             0 2 4 6 1 3 5 7
    awq back   ... and once too seldom; three times is never   0 4 1 5 2 6 3 7
    awq pair   nibbles exchanged in interleaved words          2 3 0 1 6 7 4 5
    awq bytes  bytes from the other end, likewise              5 4 7 6 1 0 3 2

and for a few orders drawn at random, which stand for chance. The number is a squared z: of the size of 1 by chance,
hundreds or thousands for the order of the file. A verdict needs SURE, and CLEARLY times that of every other order; else
it is "cannot tell". How often that errs, and how often it cannot tell, is measured by tools/bench_verify.py and written
to docs/verify.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache

import torch
from torch import Tensor

SURE = 100.0  # squared z
CLEARLY = 4.0  # times the next best
SAID = "said"
Score = Callable[[Tensor], float]
"""z of an order, which is [length]: how far a statistic is from chance, in standard deviations."""
_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)
_CHANCES = 4


class Verdict(Enum):
    """Whether the order is the one that the kind says."""

    RIGHT = "right"
    WRONG = "wrong"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Evidence:
    """The squared z of the order that the kind says, and of the best other one."""

    said: float
    other: float
    name: str

    @property
    def verdict(self) -> Verdict:
        """What follows."""
        if self.said >= SURE and self.said >= CLEARLY * self.other:
            return Verdict.RIGHT
        if self.other >= SURE and self.other >= CLEARLY * self.said and not self.name.startswith("chance"):
            return Verdict.WRONG
        return Verdict.CANNOT_TELL


@cache
def orders(length: int = 8) -> Mapping[str, Tensor]:
    """Orders of `length` neighbours: position i gets what lies at order[i].

    >>> orders()["bytes"].tolist()
    [6, 7, 4, 5, 2, 3, 0, 1]
    """
    i = torch.arange(length)
    found = {SAID: i}
    if length == 8:
        awq = torch.tensor(_AWQ)
        found |= {"pair": i ^ 1, "bytes": i ^ 6, "reversed": i ^ 7, "halves": i ^ 4}
        found |= {"awq": awq, "awq back": awq.argsort(), "awq pair": i ^ 2, "awq bytes": i ^ 5}
    else:  # GGUF: a byte holds weights that are half a chunk apart
        for half in (16, 32, 64):
            if 2 * half <= length:
                chunk, within = i // (2 * half) * (2 * half), i % (2 * half)
                found[f"halves of {2 * half}"] = i ^ half
                found[f"pairs in {2 * half}"] = chunk + within // 2 + within % 2 * half
                found[f"pairs in {2 * half} back"] = chunk + within % half * 2 + within // half
    generator = torch.Generator().manual_seed(length)
    return found | {f"chance {c}": torch.randperm(length, generator=generator) for c in range(_CHANCES)}


def weigh(score: Score, length: int = 8) -> Evidence:
    """The evidence of one statistic."""
    return evidence({name: score(order) ** 2 for name, order in orders(length).items()})


def evidence(squares: Mapping[str, float]) -> Evidence:
    """From the squared z of each order, or sums of several."""
    other = max((name for name in squares if name != SAID), key=lambda name: squares[name])
    return Evidence(squares[SAID], squares[other], other)


def reordered(values: Tensor, order: Tensor) -> Tensor:
    """The rows of values [n, ...], each `len(order)` neighbours in another order; what is left over stays."""
    n = len(values) // len(order) * len(order)
    moved = values[:n].reshape(-1, len(order), *values.shape[1:])[:, order.to(values.device)]
    return torch.cat([moved.reshape(n, *values.shape[1:]), values[n:]])


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r of what is left of two tables [n, g] without the means of their rows and columns."""
    a, b = _rest(a), _rest(b)
    size = float(a.norm() * b.norm())
    return float((a * b).sum()) / size if size > 0 else 0.0


def _rest(table: Tensor) -> Tensor:
    table = table.double()
    if table.shape[1] == 1:
        return table - table.mean()
    return table - table.mean(0, keepdim=True) - table.mean(1, keepdim=True) + table.mean()
