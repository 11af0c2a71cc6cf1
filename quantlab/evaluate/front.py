"""Which of several formats is worth having: the Pareto front of quality, bytes and speed, and a choice under a budget.

A point is dominated where another one is better in at least one of the three and worse in none. "Better" and "worse"
are what the measurement can tell: the KL divergence beyond chance (paired, story by story), the speed beyond the spread
of its repetitions; bytes are exact. What cannot be told apart is a tie, and of tied points the smaller one is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantlab.errors import UsageError

Worse = Callable[[str, str], bool]  # whether the first is worse than the second, beyond the noise


@dataclass(frozen=True)
class Point:
    """One way to keep a model: its bytes, what it lost (KL divergence, nats a token), and how fast it decodes.

    speed: tokens a second of the slowest repetition, the median, the fastest; None where it was not measured.
    """

    name: str
    nbytes: int
    kl: float
    speed: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Budget:
    """What must hold; None asks nothing. Bytes of the whole model, nats a token, tokens a second of decoding."""

    max_bytes: float | None = None
    max_kl: float | None = None
    min_speed: float | None = None

    def __post_init__(self) -> None:
        for what, value in (("bytes", self.max_bytes), ("KL divergence", self.max_kl), ("speed", self.min_speed)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"a budget of {what} must be a number above 0, got {value}")


def worse_in_kl(a: Point, b: Point, worse: Worse) -> bool:
    """Whether a has lost more than b, beyond chance."""
    return a.kl > b.kl and worse(a.name, b.name)


def slower(a: Point, b: Point) -> bool:
    """Whether a is slower than b beyond the spread of both: its fastest run below b's slowest.

    >>> slower(Point("a", 1, 0, (1, 2, 3)), Point("b", 1, 0, (4, 5, 6)))
    True
    >>> slower(Point("a", 1, 0, (1, 2, 4.5)), Point("b", 1, 0, (4, 5, 6)))
    False
    """
    return a.speed is not None and b.speed is not None and a.speed[2] < b.speed[0]


def dominated(a: Point, b: Point, worse: Worse) -> bool:
    """Whether b is better than a in something and worse in nothing.

    >>> small, large = Point("small", 1, 0.1), Point("large", 2, 0.2)
    >>> dominated(large, small, lambda a, b: True), dominated(small, large, lambda a, b: True)
    (True, False)
    """
    better = a.nbytes > b.nbytes or worse_in_kl(a, b, worse) or slower(a, b)
    return better and not (b.nbytes > a.nbytes or worse_in_kl(b, a, worse) or slower(b, a))


def front(points: Sequence[Point], worse: Worse) -> list[Point]:
    """The points that no other one dominates, the smallest first."""
    left = [point for point in points if not any(dominated(point, other, worse) for other in points)]
    return sorted(left, key=lambda point: point.nbytes)


@dataclass(frozen=True)
class Advice:
    """What to take (None: nothing fits), and why, in a sentence or two."""

    name: str | None
    why: str


def recommend(points: Sequence[Point], budget: Budget, worse: Worse) -> Advice:
    """The point within the budget that loses least; of those that cannot be told apart, the smallest."""
    if not points:
        raise UsageError("nothing was measured, so there is nothing to recommend")
    fitting = [point for point in points if not _missing(point, budget)]
    if not fitting:
        nearest = min(points, key=lambda point: (len(_missing(point, budget)), point.kl))
        return Advice(None, f"Nothing fits. Nearest is {nearest.name}: {', '.join(_missing(nearest, budget))}.")
    best = min(fitting, key=lambda point: point.kl)
    tied = [point for point in fitting if point is best or not worse_in_kl(point, best, worse)]
    taken = min(tied, key=lambda point: point.nbytes)
    why = f"{taken.name}: {_figures(taken)}."
    if taken is not best:
        times = best.nbytes / taken.nbytes
        why += f" Its loss cannot be told from that of {best.name}, which has {times:.2f} times the bytes."
    smaller = [point for point in fitting if point.nbytes < taken.nbytes]
    if smaller:
        second = min(smaller, key=lambda point: point.kl)
        why += f" Second is {second.name}: {_figures(second)}."
    return Advice(taken.name, why)


def _missing(point: Point, budget: Budget) -> list[str]:
    """What of the budget it does not keep, in words."""
    found = []
    if budget.max_bytes is not None and point.nbytes > budget.max_bytes:
        found.append(f"{point.nbytes / 1e6:.1f} MB of {budget.max_bytes / 1e6:.1f}")
    if budget.max_kl is not None and point.kl > budget.max_kl:
        found.append(f"a KL divergence of {point.kl:.3g} where {budget.max_kl:.3g} is allowed")
    if budget.min_speed is not None:
        if point.speed is None:
            found.append("no measured speed")
        elif point.speed[1] < budget.min_speed:
            found.append(f"{point.speed[1]:.0f} tokens/s of {budget.min_speed:.0f}")
    return found


def _figures(point: Point) -> str:
    speed = "" if point.speed is None else f", {point.speed[1]:.0f} tokens/s"
    return f"{point.nbytes / 1e6:.1f} MB, KL divergence {point.kl:.3g}{speed}"
