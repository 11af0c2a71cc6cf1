"""Seconds of one step of an engine: linear in what the step does.

    seconds = fixed + prefill * tokens of prompts + sequence * texts that decode + context * tokens of cache read

`fixed` is reading the weights and the engine's own work, the same for one text as for many: that is why batches pay.
`prefill` is arithmetic. Where a batch is so large that its arithmetic takes longer than reading the weights, `sequence`
says it. The four are fitted to measured steps, none below zero: of all choices which of the last three are zero, the
one that fits best without a negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from quantlab.errors import UsageError


@dataclass(frozen=True)
class Measured:
    """A measured step: tokens of prompts in it, texts that decoded, tokens of cache they read, its seconds."""

    prefill: int
    sequences: int
    context: int
    seconds: float


@dataclass(frozen=True)
class StepCost:
    """Seconds: of any step, a token of a prompt, a text that decodes, a token of cache that is read."""

    fixed: float
    prefill: float = 0.0
    sequence: float = 0.0
    context: float = 0.0

    def __post_init__(self) -> None:
        if self.fixed <= 0 or min(self.prefill, self.sequence, self.context) < 0:
            raise UsageError(f"a step takes more than 0 seconds, and nothing in it less than 0; got {self}")

    def seconds(self, prefill: int, sequences: int, context: int = 0) -> float:
        """Of a step with so many tokens of prompts, texts that decode, and tokens of cache.

        >>> round(StepCost(fixed=0.02, prefill=1e-4, sequence=1e-3).seconds(prefill=100, sequences=4), 6)
        0.034
        """
        return self.fixed + self.prefill * prefill + self.sequence * sequences + self.context * context

    @property
    def words(self) -> str:
        """The formula with its figures.

        >>> StepCost(fixed=0.005, prefill=2e-5).words
        'step = 5.00 ms + 20.0 us x tokens of prompts + 0.0 us x texts + 0 ns x tokens of cache'
        """
        return (
            f"step = {1e3 * self.fixed:.2f} ms + {1e6 * self.prefill:.1f} us x tokens of prompts "
            f"+ {1e6 * self.sequence:.1f} us x texts + {1e9 * self.context:.0f} ns x tokens of cache"
        )

    @classmethod
    def fit(cls, steps: Sequence[Measured]) -> StepCost:
        """The cost that comes nearest to measured steps, each counted relative to its own seconds."""
        if len(steps) < 2 or any(step.seconds <= 0 for step in steps):
            raise UsageError("a cost is fitted to two or more steps, each of more than 0 seconds")
        rows = np.array([[1, step.prefill, step.sequences, step.context] for step in steps], dtype=float)
        seconds = np.array([step.seconds for step in steps])
        rows /= seconds[:, None]
        return min(_fits(rows), key=lambda pair: pair[0])[1]


def _fits(rows: NDArray[np.float64]) -> Iterator[tuple[float, StepCost]]:
    """Square error, and cost, of each choice of columns (always the first) whose least squares fit is not negative."""
    for chosen in product((False, True), repeat=rows.shape[1] - 1):
        columns = [0, *(at for at, used in enumerate(chosen, 1) if used)]
        found, _, rank, _ = np.linalg.lstsq(rows[:, columns], np.ones(len(rows)))
        if rank == len(columns) and found[0] > 0 and (found >= 0).all():
            figures = np.zeros(rows.shape[1])
            figures[columns] = found
            yield float(((rows @ figures - 1) ** 2).sum()), StepCost(*figures.tolist())
