"""AWQ's search for a scale: the error of a layer's outputs against the exponent, and who pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from quantlab.plots import theme
from quantlab.plots.theme import Picture

_DASHES = (0, (3, 2))
LOUDEST = 0.1  # the share of the inputs that counts as loud


@dataclass(frozen=True, eq=False)
class Scaled:
    """A layer rounded after scaling by mean|x|^a, for every a that is tried."""

    label: str  # "3 bits, keys of block 2"
    exponents: Sequence[float]
    errors: Sequence[float]  # relative error of the outputs for each
    at: int  # the exponent chosen
    loud: Sequence[float]  # for each exponent the loudest inputs' part of the squared error, as a share of all at a = 0
    quiet: Sequence[float]  # the other inputs'

    @property
    def best(self) -> int:
        """The exponent with the smallest error."""
        return min(range(len(self.errors)), key=lambda i: self.errors[i])

    @property
    def said(self) -> str:
        """Exponent and error, in words."""
        return f"a = {self.exponents[self.at]:g}: the outputs are {self.errors[self.at]:.2%} off"


def scaling_picture(now: Scaled, before: Scaled | None = None) -> Picture:
    """Left: the error against the exponent. Right: the parts of loud and of quiet inputs, now and without scaling."""
    with theme.style():
        picture = Picture(figsize=(10, 3.9), dpi=theme.DPI)
        _curve(picture.add_axes((0.07, 0.145, 0.46, 0.6)), now, before)
        _parts(picture.add_axes((0.66, 0.145, 0.325, 0.6)), now)
        picture.text(0.012, 0.94, f"AWQ's search: {now.label}, {now.said}", size=11.5, weight="bold")
        handles = [
            Line2D([], [], color=theme.BLUE, marker="o", markersize=6, label="this setting"),
            Line2D([], [], color=theme.GREEN, marker="D", markersize=6, linestyle="", label="the best exponent"),
        ]
        if before is not None:
            handles.append(Line2D([], [], color=theme.SOFT, linestyle=_DASHES, label=f"before: {before.label}"))
        picture.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.925), ncols=3, handletextpad=0.4)
        picture.words = scaling_words(now, before)
    return picture


def scaling_words(now: Scaled, before: Scaled | None = None) -> str:
    """What `scaling_picture` shows, in words."""
    gain = 1 - now.errors[now.best] / now.errors[0]
    words = (
        f"{now.label}, {now.said}; without scaling {now.errors[0]:.2%}. The best exponent is "
        f"{now.exponents[now.best]:g}, {now.errors[now.best]:.2%}: {gain:.0%} less. The loudest {LOUDEST:.0%} of the "
        f"inputs now cause {now.loud[now.at]:.0%} of what the squared error was, the others {now.quiet[now.at]:.0%}."
    )
    return f"{words} Before: {before.label}, {before.said}." if before else words


def _curve(axes: Axes, now: Scaled, before: Scaled | None) -> None:
    if before is not None:
        axes.plot(before.exponents, before.errors, color=theme.SOFT, linestyle=_DASHES, linewidth=1.2)
    axes.plot(now.exponents, now.errors, color=theme.BLUE, linewidth=1.8)
    axes.plot(now.exponents[now.at], now.errors[now.at], "o", color=theme.BLUE, markersize=9,
              markeredgecolor=theme.PAPER)  # fmt: skip
    axes.plot(now.exponents[now.best], now.errors[now.best], "D", color=theme.GREEN, markersize=6,
              markeredgecolor=theme.PAPER)  # fmt: skip
    top = max(*now.errors, *(before.errors if before else ()))
    axes.set(ylim=(0, 1.08 * top), xlim=(-0.03, 1.03), xlabel="exponent a: scale = (mean |input|)^a")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.set_title("error of the outputs, share of their size", size=9, weight="normal", pad=3)


def _parts(axes: Axes, now: Scaled) -> None:
    names = (f"loudest {LOUDEST:.0%}\nof inputs", "all others")
    for row, (name, shares) in enumerate(zip(names, (now.loud, now.quiet), strict=True)):
        for offset, at, colour in ((-0.19, 0, theme.GREY), (0.19, now.at, (theme.VERMILION, theme.SKY)[row])):
            axes.barh(row + offset, shares[at], height=0.34, color=colour)
            axes.annotate(f"{shares[at]:.0%}", (shares[at], row + offset), xytext=(4, 0), textcoords="offset points",
                          va="center", size=9)  # fmt: skip
        axes.annotate(name, (0, row), xytext=(-6, 0), textcoords="offset points", va="center", ha="right", size=9)
    edge = max(now.loud[0], now.quiet[0], now.loud[now.at], now.quiet[now.at])
    axes.set(xlim=(0, 1.2 * edge), ylim=(1.6, -0.6), yticks=[], xticks=[])
    axes.set_title("who causes the squared error (grey: a = 0)", size=9, weight="normal", pad=3)
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
