"""A load curve: what a request waits at each rate of arrivals, and how many stay within a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from quantlab.plots import theme
from quantlab.plots.theme import Picture
from quantlab.serve.load.report import Report
from quantlab.serve.load.sweep import ENOUGH

_DASHES = (0, (3, 2))


@dataclass(frozen=True)
class Curve:
    """At each rate (requests a second): 95th percentiles of first and further tokens, in seconds; share of good ones.

    at: the rate chosen, as an index; limits: seconds to the first token and for each further one. how: PREDICTED, or
    where it was measured.
    """

    label: str
    rates: Sequence[float]
    ttft: Sequence[float]
    tpot: Sequence[float]
    good: Sequence[float]
    at: int
    limits: tuple[float, float]
    how: str = "PREDICTED"

    @classmethod
    def of(cls, reports: Sequence[Report], label: str, how: str, at: int = -1) -> Curve:
        """Of open loops against a server, with limits on first and further tokens; `at`: the last unless said."""
        limits = reports[0].limits
        assert limits
        assert limits.ttft_s
        assert limits.tpot_s
        found = sorted(reports, key=lambda one: one.load.rate or 0)
        first, each = ([getattr(one, name).p95 or math.nan for one in found] for name in ("ttft", "tpot"))
        good = [one.good_share for one in found]
        rates = [one.load.rate or math.nan for one in found]
        return cls(label, rates, first, each, good, at % len(found), (limits.ttft_s, limits.tpot_s), how)

    @property
    def most(self) -> float | None:
        """The highest rate, of those tried, up to which enough requests are good; None if not even the lowest."""
        kept = None
        for rate, good in zip(self.rates, self.good, strict=True):
            if good < ENOUGH:
                break
            kept = rate
        return kept


def load_picture(now: Curve, before: Curve | None = None) -> Picture:
    """Left: waiting for the first token. Middle: time of each further one. Right: share of good requests."""
    with theme.style():
        picture = Picture(figsize=(10, 3.6), dpi=theme.DPI)
        panels = picture.subplots(1, 3)
        old = _scaled(before) if before else (None, None, None)
        limits = (1e3 * now.limits[0], 1e3 * now.limits[1], 100 * ENOUGH)
        for axes, values, ghost, limit in zip(panels, _scaled(now), old, limits, strict=True):
            _panel(axes, now, values, ghost, limit)
        for axes, title in zip(panels, ("first token, ms (95th percentile)", "each further token, ms (95th percentile)",
                                        "good requests, %"), strict=True):  # fmt: skip
            axes.set_title(title, size=9, weight="normal", pad=3)
            axes.set_xlabel("requests a second")
        panels[0].set_yscale("log")
        low, high = panels[0].get_ylim()
        marks = (10, 30, 100, 300, 1000, 3000) if high > 10 * low else (10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000)
        ticks = [t for t in marks if low <= t <= high]
        panels[0].set_yticks(ticks, [f"{t:,}" for t in ticks])
        panels[0].yaxis.set_minor_locator(NullLocator())
        panels[1].set_ylim(bottom=0)
        panels[2].set_ylim(-4, 104)
        picture.text(0.012, 0.93, f"{now.how}: {_said(now)}", size=11, weight="bold")
        picture.subplots_adjust(left=0.06, right=0.985, top=0.78, bottom=0.15, wspace=0.24)
        picture.words = load_words(now, before)
    return picture


def load_words(now: Curve, before: Curve | None = None) -> str:
    """What `load_picture` shows, in words."""
    ttft, tpot = 1e3 * now.ttft[now.at], 1e3 * now.tpot[now.at]
    words = (
        f"{_said(now)}. At {now.rates[now.at]:.3g} a second 95 of 100 requests have their first token within "
        f"{ttft:,.0f} ms and each further one within {tpot:.1f} ms; {now.good[now.at]:.0%} keep both limits "
        f"({1e3 * now.limits[0]:g} and {1e3 * now.limits[1]:g} ms)."
    )
    if before is None:
        return words
    return f"{words} {'Before' if before.how == now.how else f'Dashed, {before.how}'}: {_said(before)}."


def _scaled(curve: Curve) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds, milliseconds, percent."""
    return [1e3 * s for s in curve.ttft], [1e3 * s for s in curve.tpot], [100 * share for share in curve.good]


def _said(curve: Curve) -> str:
    most = (
        "no rate tried keeps the limits" if curve.most is None else f"the limits hold up to {curve.most:.3g} a second"
    )
    return f"{curve.label}: {most}"


def _panel(axes: Axes, now: Curve, values: Sequence[float], before: Sequence[float] | None, limit: float) -> None:
    if before is not None:
        axes.plot(now.rates, before, color=theme.SOFT, linestyle=_DASHES, linewidth=1.2)
    axes.plot(now.rates, values, color=theme.BLUE, linewidth=1.8, marker=".")
    axes.plot(now.rates[now.at], values[now.at], "o", color=theme.BLUE, markersize=8, markeredgecolor=theme.PAPER,
              zorder=4)  # fmt: skip
    axes.axhline(limit, color=theme.VERMILION, linewidth=1, linestyle=_DASHES)
    axes.set_xscale("log", base=2)
    axes.set_xticks(now.rates, [f"{rate:.3g}" for rate in now.rates])
    axes.xaxis.set_minor_locator(NullLocator())
