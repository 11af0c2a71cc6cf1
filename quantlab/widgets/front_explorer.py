"""Lesson 4's third explorer: a budget on measured files, and what to take within it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quantlab.evaluate.front import Budget, Point, Worse, front, recommend
from quantlab.evaluate.names import BASELINE
from quantlab.evaluate.report import Row
from quantlab.plots.front import Front, front_picture, front_words
from quantlab.plots.theme import Picture
from quantlab.widgets.explorer import Control, Explorer

ANY = float("inf")


@dataclass(frozen=True)
class FrontResult:
    """A budget, and what it leaves."""

    front: Front

    def words(self) -> str:
        """The picture in words."""
        return front_words(self.front)

    def formula(self) -> str:
        """The rule, and its steps here."""
        within = ", ".join(self.front.within) or "none"
        return "\n".join(
            (
                "beaten: another file is better in KL divergence, bytes or speed, and worse in none, beyond the noise",
                f"on the front (not beaten): {', '.join(self.front.front)}",
                f"within the budget:         {within}",
                f"of these the least loss; of those that cannot be told apart, the smallest: {self.front.chosen}",
            )
        )


def points_of(rows: Sequence[Row]) -> list[Point]:
    """The rows of a comparison that were measured, as points; the original does not compete."""
    found = []
    for row in rows:
        if row.name == BASELINE or row.nbytes is None or row.kl_mean is None:
            continue
        speed = None
        if row.decode_tps is not None and row.decode_range is not None:
            speed = (row.decode_range[0], row.decode_tps, row.decode_range[1])
        found.append(Point(row.name, row.nbytes, row.kl_mean, speed))
    return found


def front_explorer(rows: Sequence[Row], worse: Worse | None = None) -> Explorer[FrontResult]:
    """Budgets on the rows of `quantlab.compare(..., speed=True)`: the most MB, the most loss, the least speed.

    worse: whether the text tells two rows apart, story by story; without it their error bars must not touch.
    """
    points, worse = points_of(rows), worse or by_bars(rows)
    predicted = tuple((row.name, row.decode_predicted) for row in rows if row.decode_predicted is not None)

    def result(max_mb: float, max_kl: float, min_speed: float) -> FrontResult:
        return FrontResult(chosen(points, worse, predicted, max_mb, max_kl, min_speed))

    sizes = (*sorted({round(p.nbytes / 1e6 + 0.05, 1) for p in points}), ANY)
    losses = (*sorted({_up(p.kl) for p in points}), ANY)
    speeds = [p.speed[1] for p in points if p.speed is not None]
    floors = (0.0, *sorted({float(f"{speed:.2g}") for speed in speeds}))
    controls = (
        Control("max_mb", "At most", tuple(reversed(sizes)), ANY, lambda mb: _any(mb, "MB"), slider=True),
        Control("max_kl", "Loss up to", tuple(reversed(losses)), ANY, lambda kl: _any(kl, "nats"), slider=True),
        Control(
            "min_speed", "At least", floors, 0.0, lambda s: f"{s:,.0f} tokens/s" if s else "any speed", slider=True
        ),
    )
    return Explorer(controls, result, draw)


def by_bars(rows: Sequence[Row]) -> Worse:
    """Two error bars apart: what can be said from a table alone."""
    bars = {row.name: (row.kl_mean or 0.0, row.kl_stderr or 0.0) for row in rows}

    def worse(a: str, b: str) -> bool:
        (kl_a, err_a), (kl_b, err_b) = bars[a], bars[b]
        return bool(kl_a - kl_b > 2 * (err_a**2 + err_b**2) ** 0.5)

    return worse


def chosen(
    points: Sequence[Point], worse: Worse, predicted: tuple[tuple[str, float], ...], max_mb: float, max_kl: float,
    min_speed: float,
) -> Front:  # fmt: skip
    """The pure function: front, what the budget leaves, and the advice."""
    budget = Budget(
        None if max_mb == ANY else 1e6 * max_mb, None if max_kl == ANY else max_kl, min_speed if min_speed else None
    )
    advice = recommend(points, budget, worse)
    within = [p.name for p in points if recommend([p], budget, worse).name is not None]
    parts = [_any(max_mb, "MB")] * (max_mb != ANY) + [_any(max_kl, "nats")] * (max_kl != ANY)
    parts += [f"at least {min_speed:,.0f} tokens/s"] * (min_speed > 0)
    names = [p.name for p in front(points, worse)]
    return Front(
        tuple(points), tuple(names), tuple(within), advice.name, advice.why, ", ".join(parts) or "no budget", predicted
    )


def _any(value: float, unit: str) -> str:
    return f"any {unit}" if value == ANY else f"{value:g} {unit} at most"


def _up(kl: float) -> float:
    """Two digits, not below the value, so that a file stays within the budget that bears its own loss."""
    step = 10.0 ** (math.floor(math.log10(kl)) - 1)
    return float(f"{math.ceil(kl / step) * step:.1e}")


def draw(result: FrontResult, ghost: FrontResult | None) -> Picture:
    """The picture of this budget; the choice before is said in words."""
    return front_picture(result.front, ghost.front if ghost else None)
