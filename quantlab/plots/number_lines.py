"""Levels on a line: which numbers a format can store, and where one weight goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantlab.errors import UsageError
from quantlab.lesson.message import number
from quantlab.plots import theme
from quantlab.plots.strokes import strokes
from quantlab.plots.theme import Picture


def number_lines(rows: Mapping[str, Sequence[float]], title: str = "Which numbers can be stored") -> Picture:
    """One line a format: a tick for each level, as a share of the format's largest, from -1 to 1."""
    if not rows or any(not levels or not max(map(abs, levels)) for levels in rows.values()):
        raise UsageError("number_lines needs at least one format with a level other than 0; give its levels")
    height = 0.46 * len(rows) + 1.1
    with theme.style():
        picture, (axes,) = Picture.blank(9, height)
        picture.subplots_adjust(left=0.235, right=0.98, top=1 - 0.5 / height, bottom=0.5 / height)
        for row, levels in enumerate(rows.values()):
            places = _shares(levels)
            width = 2.2 if len(places) <= 16 else 0.7
            strokes(axes, places, row - 0.3, row + 0.3, color=theme.BLUE, linewidth=width)
        axes.set_yticks(range(len(rows)), [f"{name}: {len(_shares(rows[name]))} values" for name in rows])
        axes.tick_params(axis="y", labelcolor=theme.INK)
        axes.set(xlim=(-1.03, 1.03), ylim=(len(rows) - 0.5, -0.5), xlabel="share of the largest value")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        picture.text(0.012, 1 - 0.27 / height, title, size=11.5, weight="bold")
        picture.words = number_lines_words(rows)
    return picture


def number_lines_words(rows: Mapping[str, Sequence[float]]) -> str:
    """What `number_lines` shows, in words."""
    told = []
    for name, levels in rows.items():
        places = _shares(levels)
        inside = sum(abs(place) <= 0.25 for place in places) / len(places)
        told.append(f"{name} has {len(places)} values, {inside:.0%} of them within a quarter of the largest")
    return f"{'; '.join(told)}."


def _shares(levels: Sequence[float]) -> list[float]:
    top = max(map(abs, levels))
    return sorted({level / top for level in levels})


@dataclass(frozen=True)
class Snapped:
    """One weight in its group: the group's weights and levels, and the level it goes to."""

    label: str  # "weight 17 in nf4"
    weights: tuple[float, ...]  # the group
    levels: tuple[float, ...]
    weight: float
    value: float  # what is stored for it

    @property
    def error(self) -> float:
        """Stored value less weight."""
        return self.value - self.weight


def snapped_picture(now: Snapped, before: Snapped | None = None) -> Picture:
    """The group's weights as dots above the levels as ticks; one weight and its level stand out."""
    with theme.style():
        picture, (axes,) = Picture.blank(9.4, 2.9)
        picture.subplots_adjust(left=0.03, right=0.97, top=0.72, bottom=0.17)
        many = len(now.levels) > 32
        strokes(axes, now.levels, -0.55, 0.05, color=theme.BLUE, linewidth=0.6 if many else 1.6)
        if before is not None:
            strokes(
                axes, before.levels, -1.0, -0.68, color=theme.GREY, linewidth=0.5 if many else 1, linestyle="dotted"
            )
        axes.scatter(now.weights, [0.42] * len(now.weights), s=26, color=theme.GREY, alpha=0.55, linewidth=0)
        axes.scatter([now.weight], [0.42], s=64, color=theme.VERMILION, zorder=4)
        axes.annotate(
            "", (now.value, 0.06), xytext=(now.weight, 0.42), arrowprops={"arrowstyle": "-|>", "color": theme.VERMILION}
        )
        strokes(axes, [now.value], -0.55, 0.05, color=theme.VERMILION, linewidth=3, zorder=3)
        reach = max(abs(x) for x in (*now.weights, *now.levels, *(before.levels if before else ())))
        side = "left" if now.weight < 0 else "right"  # towards the middle
        axes.annotate(
            f"{now.weight:.4f} is stored as {now.value:.4f}", (now.weight, 0.42), xytext=(0, 12),
            textcoords="offset points", ha=side, size=9.5, weight="bold", color=theme.INK,
        )  # fmt: skip
        axes.set(xlim=(-1.04 * reach, 1.04 * reach), ylim=(-1.05, 0.85), yticks=[], xlabel="weight")
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        picture.text(0.012, 0.925, f"Where it goes: {now.label}", size=11.5, weight="bold")
        key = "dots: the weights of its group; ticks: the levels"
        if before is not None:
            key += f"; dotted, beneath: the levels before ({before.label})"
        picture.text(0.012, 0.84, key, size=9, color=theme.SOFT)
        picture.words = snapped_words(now, before)
    return picture


def snapped_words(now: Snapped, before: Snapped | None = None) -> str:
    """What `snapped_picture` shows, in words."""
    size = f"{len(now.weights)} weights from {min(now.weights):.4f} to {max(now.weights):.4f}"
    words = (
        f"{now.label[:1].upper()}{now.label[1:]}: {now.weight:.4f} is stored as {now.value:.4f}, "
        f"an error of {number(float(f'{now.error:.3g}'))}. Its group holds {size}, on {len(set(now.levels))} levels."
    )
    return f"{words} Before: {before.label}, {before.weight:.4f} as {before.value:.4f}." if before else words
