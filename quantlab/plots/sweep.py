"""GPTQ's sweep in the middle of its work: how far every weight is from the original, and what the outputs have lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from quantlab.plots import theme
from quantlab.plots.levels import SIGNED
from quantlab.plots.theme import Picture

_DASHES = (0, (3, 2))


@dataclass(frozen=True, eq=False)
class Swept:
    """A sweep after so many columns, beside round to nearest after as many."""

    label: str  # "3 bits, as they come"
    change: Tensor  # [rows, k] weights as they are now less the original ones
    plain: Tensor  # the same of round to nearest
    top: float  # the change at which the colours are strongest
    at: int  # which of the stops
    stops: Sequence[int]  # columns done
    errors: Sequence[float]  # relative error of the outputs at each stop
    plain_errors: Sequence[float]
    in_order: bool = True  # columns are done from left to right

    @property
    def done(self) -> int:
        """Columns done."""
        return self.stops[self.at]

    @property
    def said(self) -> str:
        """Both errors, in words."""
        return f"outputs {self.errors[self.at]:.2%} off by GPTQ, {self.plain_errors[self.at]:.2%} by round to nearest"


def sweep_picture(now: Swept, before: Swept | None = None) -> Picture:
    """Left: the change of each weight, GPTQ's above, rounding's beneath. Right: the outputs' error by columns done."""
    with theme.style():
        picture = Picture(figsize=(10, 4.2), dpi=theme.DPI)
        _maps(picture.add_axes((0.012, 0.03, 0.53, 0.8)), now)
        _errors(picture.add_axes((0.62, 0.14, 0.365, 0.6)), now, before)
        picture.text(0.012, 0.945, f"The sweep: {now.done} of {now.stops[-1]} columns, {now.label}", size=11.5,
                     weight="bold")  # fmt: skip
        handles = [
            Line2D([], [], color=theme.BLUE, marker="o", markersize=5, label="GPTQ"),
            Line2D([], [], color=theme.VERMILION, marker="s", markersize=5, label="round to nearest"),
        ]
        if before is not None:
            handles.append(Line2D([], [], color=theme.SOFT, linestyle=_DASHES, label="before: GPTQ"))
        picture.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.995, 0.93), ncols=3, handletextpad=0.4)
        picture.words = sweep_words(now, before)
    return picture


def sweep_words(now: Swept, before: Swept | None = None) -> str:
    """What `sweep_picture` shows, in words."""
    left = now.stops[-1] - now.done
    words = f"{now.done} of {now.stops[-1]} columns rounded, {now.label}: {now.said}."
    if 0 < left < now.stops[-1]:
        words += f" By GPTQ the other {left} columns have moved to make up for the errors; by rounding they have not."
    return f"{words} Before: {before.done} columns, {before.label}: {before.said}." if before else words


def _maps(axes: Axes, now: Swept) -> None:
    """Two maps in one set of axes: that is drawn in half the time."""
    maps = (("GPTQ: weights as they are now, less the original ones", now.change),
            ("round to nearest: the same", now.plain))  # fmt: skip
    for row, (name, change) in enumerate(maps):
        low = 1 - row
        axes.imshow(
            change.numpy(), cmap=SIGNED, vmin=-now.top, vmax=now.top, aspect="auto", interpolation="none",
            extent=(0, 1, low, low + 0.82),
        )  # fmt: skip
        axes.add_patch(Rectangle((0, low), 1, 0.82, fill=False, edgecolor=theme.GREY, linewidth=0.8))
        axes.text(0, low + 0.845, name, size=9)
        if now.in_order and 0 < now.at < len(now.stops) - 1:
            front = now.done / now.stops[-1]
            axes.plot((front, front), (low - 0.02, low + 0.84), color=theme.INK, linewidth=1.6)
    axes.set(xlim=(0, 1), ylim=(0, 1.95))
    axes.set_axis_off()


def _errors(axes: Axes, now: Swept, before: Swept | None) -> None:
    if before is not None and before.errors != now.errors:
        axes.plot(before.stops, before.errors, color=theme.SOFT, linestyle=_DASHES, linewidth=1.2)
    for errors, colour, marker in ((now.plain_errors, theme.VERMILION, "s"), (now.errors, theme.BLUE, "o")):
        axes.plot(now.stops, errors, color=colour, linewidth=0.9, alpha=0.45)
        axes.plot(now.stops[: now.at + 1], errors[: now.at + 1], color=colour, linewidth=2.2)
        axes.plot(now.done, errors[now.at], marker, color=colour, markersize=7, markeredgecolor=theme.PAPER)
    top = max(*now.errors, *now.plain_errors, *(before.errors if before else ()))
    axes.set(xlim=(-0.02 * now.stops[-1], 1.04 * now.stops[-1]), ylim=(0, 1.08 * top), xlabel="columns rounded")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.set_title("error of the outputs, share of their size", size=9, weight="normal", pad=3)
