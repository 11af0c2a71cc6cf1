"""Quality against speed and bytes: every format as a point, the Pareto front, and the choice within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from quantlab.errors import UsageError
from quantlab.evaluate.front import Point
from quantlab.plots import theme
from quantlab.plots.labels import label_points
from quantlab.plots.theme import Picture


@dataclass(frozen=True)
class Front:
    """Measured points, the names on the front, those within the budget, the choice, and what the planner predicted.

    predicted: name -> tokens a second of the roofline; drawn beside, never joined to what was measured.
    """

    points: Sequence[Point]
    front: Sequence[str]
    within: Sequence[str]
    chosen: str | None
    why: str
    budget: str = "no budget"
    predicted: Sequence[tuple[str, float]] = ()

    @property
    def said(self) -> str:
        """Budget and choice, in words."""
        return f"{self.budget}: {'nothing fits' if self.chosen is None else f'take {self.chosen}'}"


def front_picture(now: Front, before: Front | None = None) -> Picture:
    """KL divergence against decoding speed (bytes where no speed was measured), and against bytes."""
    if not now.points:
        raise UsageError("front_picture needs at least one measured point")
    with theme.style():
        picture, panels = Picture.blank(10, 4.3, panels=2)
        picture.subplots_adjust(left=0.075, right=0.985, top=0.755, bottom=0.125, wspace=0.19)
        _speed(panels[0], now)
        _bytes(panels[1], now)
        picture.text(0.012, 0.945, now.said[:1].upper() + now.said[1:], size=11.5, weight="bold")
        handles = [
            Line2D([], [], color=theme.BLUE, marker="o", linestyle="-", label="MEASURED, on the front"),
            Line2D([], [], color=theme.GREY, marker="o", linestyle="", label="beaten, or outside the budget"),
            Line2D([], [], color=theme.GREEN, marker="*", markersize=12, linestyle="", label="the choice"),
        ]
        if now.predicted:
            handles.append(Line2D([], [], color=theme.VERMILION, marker="|", markersize=10, linestyle="",
                                  label="PREDICTED bound of speed"))  # fmt: skip
        picture.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.93), ncols=4, handletextpad=0.3)
        picture.words = front_words(now, before)
    return picture


def front_words(now: Front, before: Front | None = None) -> str:
    """What `front_picture` shows, in words."""
    told = [
        f"{p.name}: {p.nbytes / 1e6:.1f} MB, KL divergence {p.kl:.2g}"
        + (f", {p.speed[1]:,.0f} tokens/s ({p.speed[0]:,.0f} to {p.speed[2]:,.0f})" if p.speed else "")
        for p in sorted(now.points, key=lambda p: p.nbytes)
    ]
    words = f"{now.said[:1].upper()}{now.said[1:]}. {now.why} On the front: {', '.join(now.front)}. {'; '.join(told)}."
    return f"{words} Before: {before.said}." if before else words


def _colour(now: Front, name: str) -> str:
    return theme.BLUE if name in now.front and name in now.within else theme.GREY


def _speed(axes: Axes, now: Front) -> None:
    timed = [p for p in now.points if p.speed is not None]
    if not timed:
        axes.text(0.5, 0.5, "no speed was measured", ha="center", transform=axes.transAxes, color=theme.SOFT)
        axes.set(xticks=[], yticks=[])
        return
    for p in timed:
        assert p.speed is not None
        low, middle, high = p.speed
        axes.errorbar(
            middle, p.kl, xerr=[[middle - low], [high - middle]], fmt="none", ecolor=theme.GREY, elinewidth=1.2
        )
    for name, speed in now.predicted:
        kl = next((p.kl for p in timed if p.name == name), None)
        if kl is not None:
            axes.plot(speed, kl, marker="|", markersize=11, color=theme.VERMILION, markeredgewidth=2)
    line = sorted((p.speed[1], p.kl) for p in timed if p.name in now.front and p.speed)
    axes.plot([x for x, _ in line], [kl for _, kl in line], color=theme.BLUE, linewidth=1, alpha=0.6, zorder=1)
    _points(axes, now, [(p.speed[1], p) for p in timed if p.speed])
    axes.set(xlabel="decoding, tokens a second")
    axes.set_title(
        "KL divergence in nats (log) against speed: down and right is better", size=9, weight="normal", pad=3
    )


def _bytes(axes: Axes, now: Front) -> None:
    line = sorted((p.nbytes / 1e6, p.kl) for p in now.points if p.name in now.front)
    axes.plot([x for x, _ in line], [kl for _, kl in line], color=theme.BLUE, linewidth=1, alpha=0.6, zorder=1)
    _points(axes, now, [(p.nbytes / 1e6, p) for p in now.points])
    axes.set(xlabel="MB of the whole model")
    axes.set_title("KL divergence in nats (log) against bytes: down and left is better", size=9, weight="normal", pad=3)


def _points(axes: Axes, now: Front, at: Sequence[tuple[float, Point]]) -> None:
    for x, p in at:
        if p.name == now.chosen:
            axes.plot(x, p.kl, "*", color=theme.GREEN, markersize=17, markeredgecolor=theme.PAPER, zorder=4)
        else:
            axes.plot(x, p.kl, "o", color=_colour(now, p.name), markersize=7, markeredgecolor=theme.PAPER, zorder=3)
    axes.set_yscale("log")
    kls = [p.kl for _, p in at]
    xs = [x for x, _ in at]
    axes.yaxis.set_major_locator(LogLocator(subs=(1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    room = (max(kls) / min(kls)) ** 0.12 * 1.2
    axes.set(ylim=(min(kls) / room, max(kls) * room))
    spread = max(xs) - min(xs) or max(xs)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, min(xs) - 0.08 * spread), max(high, max(xs) + 0.12 * spread))
    label_points(axes, [(x, p.kl, p.name) for x, p in at])
