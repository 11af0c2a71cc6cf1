"""A number the learner commits to before the lesson measures it.

>>> p = Prediction("doc-bits", "Bits a weight of a 4-bit file?", "bits", low=1, high=16)
>>> p.lock(4)                                             # doctest: +SKIP
Locked: Bits a weight of a 4-bit file?
Your prediction is 4 bits. Go on: the measurement comes later in the lesson.
>>> print(in_words(4, 5.2, "bits"))
You predicted 4 bits; measured: 5.2 bits. Your prediction was 23% too low.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from quantlab.lesson import progress
from quantlab.lesson.message import Kind, Message, number


@dataclass(frozen=True)
class Prediction:
    """A question with a number for an answer; `low` and `high` bound what makes sense."""

    id: str
    question: str
    unit: str
    low: float | None = None
    high: float | None = None

    @property
    def locked(self) -> float | None:
        """The locked number, or None."""
        value = progress.entry("predictions", self.id).get("predicted")
        return None if value is None else float(value)

    def lock(self, value: Any = ...) -> Message:
        """Commit to a number, once; what cannot be locked is answered with the reason."""
        if (before := self.locked) is not None:
            return Message(Kind.LOCKED, self.question, (f"It is locked already: {number(before, self.unit)}.",))
        if value is None or value is Ellipsis:
            return Message(Kind.NOT_ATTEMPTED, self.question, (f"Lock a number, in {self.unit}: `lock(...)`.",))
        if reason := self.objection(value):
            return Message(Kind.NOTE, self.question, (reason,))

        after = "measured" in progress.entry("predictions", self.id)

        def change(entry: progress.Entry) -> None:
            entry |= {"question": self.question, "unit": self.unit, "predicted": float(value)}
            entry |= {"locked_at": progress.now(), "after_reveal": after}

        note = progress.update("predictions", self.id, change)
        word = f"Your prediction is {number(float(value), self.unit)}."
        then = (
            "The measurement had been shown before, and the record says so."
            if after
            else "Go on: the measurement comes later in the lesson."
        )
        return Message(Kind.LOCKED, self.question, tuple(filter(None, (f"{word} {then}", note))))

    def objection(self, value: Any) -> str:
        """Why this value cannot be a prediction, or ''."""
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            return f"A prediction is a number, in {self.unit}; this is {value!r}."
        value = float(value)
        low, high = self.low, self.high
        if (low is not None and value < low) or (high is not None and value > high):
            at_least = f"at least {number(low, self.unit)}" if low is not None else ""
            at_most = f"at most {number(high, self.unit)}" if high is not None else ""
            return f"It must be {' and '.join(filter(None, (at_least, at_most)))}; this is {number(value)}."
        return ""

    def reveal(self, measured: float) -> Message:
        """The prediction beside the measurement, with the error in words; both are kept for the evidence card."""
        measured = float(measured)
        predicted = self.locked

        def change(entry: progress.Entry) -> None:
            entry |= {"question": self.question, "unit": self.unit, "measured": measured}
            entry["revealed_at"] = progress.now()

        note = progress.update("predictions", self.id, change)
        if predicted is None:
            words = f"No prediction was locked; measured: {number(measured, self.unit)}."
        else:
            words = in_words(predicted, measured, self.unit)
        return Message(Kind.REVEAL, self.question, tuple(filter(None, (words, note))))

    def __repr__(self) -> str:
        state = "not locked" if self.locked is None else f"locked: {number(self.locked, self.unit)}"
        return f"Prediction ({state}): {self.question} [{self.unit}]"


def in_words(predicted: float, measured: float, unit: str) -> str:
    """Both numbers and how far apart they are: in per cent when near, as a factor when far.

    >>> in_words(40, 141, "GB")
    'You predicted 40 GB; measured: 141 GB. Your prediction was 3.5 times too low.'
    """
    both = f"You predicted {number(predicted, unit)}; measured: {number(measured, unit)}."
    if predicted == measured:
        return f"{both} Exactly right."
    if measured == 0 or predicted * measured <= 0:
        return f"{both} They are {number(abs(predicted - measured), unit)} apart."
    ratio = predicted / measured
    side = "high" if abs(predicted) > abs(measured) else "low"
    if (size := max(ratio, 1 / ratio)) >= 2:
        return f"{both} Your prediction was {number(float(f'{size:.2g}'))} times too {side}."
    error = abs(ratio - 1)
    subject = "Very close: it" if error <= 0.05 else "Your prediction"
    return f"{both} {subject} was {error:.{1 if error < 0.01 else 0}%} too {side}."
