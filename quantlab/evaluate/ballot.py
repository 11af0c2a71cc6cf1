"""Blind A/B: which of two answers is better, asked of somebody who does not know whose they are.

Left and right are drawn anew for each pair, and nothing says which is which until the votes are in. Pairs that say the
same are not asked. A vote for neither counts for neither side, and what is left are coins if nobody prefers either:

    p = P(at least as far from half of the coins)                  the exact two-sided sign test

and the share of votes for the second model has Wilson's 95% interval (1927; Brown, Cai and DasGupta 2001 recommend it
for few votes). Six votes of six are the fewest that chance would not give as well (p = 0.031).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import sqrt

from quantlab.errors import UsageError
from quantlab.evaluate.side_by_side import SideBySide
from quantlab.evaluate.statistics import LEVEL, sign_test

Z = 1.959964  # the normal quantile of 97.5%


class Vote(Enum):
    """What a judge may say of the two texts in front of them."""

    LEFT = "left"
    RIGHT = "right"
    NEITHER = "neither"


@dataclass(frozen=True)
class Outcome:
    """The votes for either model, by its name, those for neither, and the pairs that said the same."""

    names: tuple[str, str]
    votes: tuple[int, int]
    neither: int
    same: int

    @property
    def p(self) -> float:
        """How often chance alone would part the votes as far.

        >>> Outcome(("a", "b"), (0, 6), 2, 1).p
        0.03125
        """
        return sign_test(*self.votes)

    @property
    def share(self) -> tuple[float, float, float]:
        """Of the votes for either, the share of the second model's, and its 95% interval (Wilson); no votes: 0 to 1."""
        n = sum(self.votes)
        if n == 0:
            return 0.5, 0.0, 1.0
        share = self.votes[1] / n
        centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
        return share, max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        """The verdict, no stronger than the votes."""
        (a, b), (for_a, for_b) = self.names, self.votes
        told = f"{a} {for_a}, {b} {for_b}, neither {self.neither}, {self.same} pairs the same"
        if self.p >= LEVEL:
            return f"No preference shown: {told} (p = {self.p:.2g}: chance would do that as well)."
        share, low, high = self.share
        return (
            f"{b if for_b > for_a else a} is preferred: {told} (p = {self.p:.2g}; {b} has {share:.0%} of the votes, "
            f"95% interval {low:.0%} to {high:.0%})."
        )


@dataclass
class Ballot:
    """The pairs to be judged, each with its two texts in an order that a seed has drawn.

    >>> pairs = [SideBySide("Once", ("a cat", "a dog"), ((1,), (2,)))] * 8
    >>> ballot = Ballot(("bf16", "nf4"), pairs, seed=3)
    >>> print(ballot.judge(lambda prompt, left, right: Vote.LEFT if left == "a dog" else Vote.RIGHT))
    nf4 is preferred: bf16 0, nf4 8, neither 0, 0 pairs the same (p = 0.0078; nf4 has 100% of the votes, 95% interval \
68% to 100%).
    """

    names: tuple[str, str]
    pairs: Sequence[SideBySide]
    seed: int | None = None
    _votes: list[Vote] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        dice = random.Random(self.seed)
        self._asked = [pair for pair in self.pairs if pair.texts[0] != pair.texts[1]]
        dice.shuffle(self._asked)
        self._turned = [dice.random() < 0.5 for _ in self._asked]
        if not self._asked:
            raise UsageError(
                "both models say the same to every prompt, so there is nothing to judge; take more prompts"
            )

    def __repr__(self) -> str:
        """No names and no order: a notebook prints what a cell ends with."""
        return f"Ballot({len(self._votes)} of {len(self._asked)} judged)"

    @property
    def total(self) -> int:
        """Pairs that are asked."""
        return len(self._asked)

    @property
    def at(self) -> int:
        """Pairs that are judged already."""
        return len(self._votes)

    @property
    def done(self) -> bool:
        """Whether all are judged."""
        return self.at == self.total

    def question(self) -> tuple[str, str, str]:
        """(prompt, left, right) of the pair that is next."""
        pair, turned = self._asked[self.at], self._turned[self.at]
        left, right = reversed(pair.texts) if turned else pair.texts
        return pair.prompt, left, right

    def vote(self, vote: Vote) -> None:
        """Judge the pair that is next."""
        if self.done:
            raise UsageError("every pair is judged already; make a new ballot to vote again")
        self._votes.append(vote)

    def reveal(self) -> Outcome:
        """Who got the votes; only when all are in, so that nobody votes on what is known."""
        if not self.done:
            raise UsageError(f"{self.total - self.at} pairs are not judged yet; vote on them first")
        votes = [0, 0]
        for vote, turned in zip(self._votes, self._turned, strict=True):
            if vote is not Vote.NEITHER:
                votes[(vote is Vote.RIGHT) != turned] += 1
        return Outcome(self.names, (votes[0], votes[1]), self._votes.count(Vote.NEITHER), len(self.pairs) - self.total)

    def judge(self, judge: Callable[[str, str, str], Vote]) -> Outcome:
        """Let a function of (prompt, left, right) vote on all that are left."""
        while not self.done:
            self.vote(judge(*self.question()))
        return self.reveal()
