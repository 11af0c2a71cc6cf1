"""Horizontal bars with names, values and error bars: a few figures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantlab.errors import UsageError
from quantlab.plots import theme
from quantlab.plots.theme import Picture


@dataclass(frozen=True)
class Bar:
    """A name, its value, one standard error of it (0: exact), and whether it stands out."""

    name: str
    value: float
    stderr: float = 0.0
    strong: bool = False

    def said(self, percent: bool) -> str:
        """Name and value in words."""
        shown = f"{self.value:.1%}" if percent else f"{self.value:.3g}"
        error = "" if not self.stderr else f" ± {self.stderr:.1%}" if percent else f" ± {self.stderr:.1g}"
        return f"{shown}{error}"


def bars(rows: Sequence[Bar], title: str, axis: str, percent: bool = True) -> Picture:
    """One bar a row; values are shares when `percent`."""
    if not rows:
        raise UsageError("bars needs at least one Bar")
    height = 0.34 * len(rows) + 1.0
    with theme.style():
        picture, (axes,) = Picture.blank(8.6, height)
        picture.subplots_adjust(left=0.27, right=0.97, top=1 - 0.48 / height, bottom=0.45 / height)
        for at, row in enumerate(rows):
            axes.barh(
                at, row.value, height=0.62, color=theme.VERMILION if row.strong else theme.SKY,
                xerr=row.stderr or None, error_kw={"elinewidth": 1.2, "capsize": 3, "ecolor": theme.INK},
            )  # fmt: skip
            axes.annotate(
                row.said(percent), (row.value + row.stderr, at), xytext=(6, 0), textcoords="offset points", va="center",
                weight="bold" if row.strong else "normal", bbox=theme.MASK,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.tick_params(axis="y", labelcolor=theme.INK)
        top = max(row.value + row.stderr for row in rows)
        axes.set(xlim=(0, 1.25 * top), ylim=(len(rows) - 0.4, -0.6), xlabel=axis)
        if percent:
            axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1 or top > 1])
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        picture.text(0.012, 1 - 0.26 / height, title, size=11.5, weight="bold")
        picture.words = bars_words(rows, axis, percent)
    return picture


def bars_words(rows: Sequence[Bar], axis: str, percent: bool = True) -> str:
    """What `bars` shows, in words."""
    return f"{axis[:1].upper()}{axis[1:]}: {'; '.join(f'{row.name} {row.said(percent)}' for row in rows)}."
