"""From computed parts to a verdict. A claim is taken apart; each part is computed; the verdict is read off the parts.

    every part is right                    holds
    some are                               holds if   (the parts that are right say the condition)
    none is, or an essential one is not    does not hold

Nothing else makes a verdict, so it changes when an input does. `measured` is for claims whose figure is the learner's
own, and `open` for claims whose lesson has not come yet, or whose check needs a library that is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantlab.errors import QuantlabError

HOLDS, HOLDS_IF, DOES_NOT_HOLD, MEASURED, OPEN = "holds", "holds if", "does not hold", "measured", "open"
VERDICTS = (HOLDS, HOLDS_IF, DOES_NOT_HOLD, MEASURED, OPEN)


class NotHereError(QuantlabError):
    """A check asks a library that is not installed; the message says which, and how to get it."""


@dataclass(frozen=True)
class Part:
    """One computed part of a claim: what it comes to, in words with our numbers, and whether the claim has it right.

    A part is essential when the claim is pointless without it: a price comparison of machines of which one cannot run.
    """

    says: str
    right: bool
    essential: bool = False


@dataclass(frozen=True)
class Finding:
    """What a check returns: the parts, our figure in one line, and the formula it came from."""

    parts: tuple[Part, ...]
    figure: str
    method: str

    @property
    def verdict(self) -> str:
        """The verdict that follows from the parts."""
        return judge(self.parts)

    @property
    def how(self) -> str:
        """The method, then every part on its side."""
        sides = (("Right", True), ("Not right", False))
        lists = (f"{label}: {'; '.join(p.says for p in self.parts if p.right is side)}." for label, side in sides
                 if any(p.right is side for p in self.parts))  # fmt: skip
        return " ".join((f"{self.method}.", *lists))


def judge(parts: Sequence[Part]) -> str:
    """The verdict of these parts.

    >>> judge([Part("2 + 2 = 4", True), Part("2 x 3 = 5", False)])
    'holds if'
    """
    assert parts, "a claim has at least one part"
    if all(part.right for part in parts):
        return HOLDS
    if not any(part.right for part in parts) or any(part.essential and not part.right for part in parts):
        return DOES_NOT_HOLD
    return HOLDS_IF


def near(ours: float, claimed: float, tolerance: float) -> bool:
    """Whether the claimed figure is ours within a relative tolerance.

    >>> near(141.1, 140, 0.02), near(39.8, 35, 0.02)
    (True, False)
    """
    return abs(ours - claimed) <= tolerance * abs(ours)
