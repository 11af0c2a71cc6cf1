"""A weight matrix before and after rounding: heatmaps, the error map, and the histogram with the levels.

All three heatmaps share one scale of colours; in the error map they are stronger by a factor that its title names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from quantlab.lesson.message import number
from quantlab.plots import theme
from quantlab.plots.strokes import strokes
from quantlab.plots.theme import Picture

SIGNED = LinearSegmentedColormap.from_list("signed", [theme.VERMILION, theme.PAPER, theme.BLUE])  # below 0, 0, above
STRONGER = 3  # the colours of the error map
BINS = 61  # of the histogram, from -1 to 1
_DASHES = (0, (3, 2))


@dataclass(frozen=True, eq=False)
class Rounded:
    """One way to round a matrix, measured: a patch of it, where its levels lie, and what it costs.

    Positions are shares of a group's range, from -1 to 1, so that all groups have the same levels.
    """

    label: str  # "4 bits, groups of 128, symmetric"
    patch: Tensor  # [rows, columns] of W
    patch_hat: Tensor  # the same of W_hat
    levels: Sequence[float]  # positions
    used: Sequence[float]  # share of all weights at each level
    spread: Sequence[float]  # share of all weights in each of BINS bins
    error: float  # relative, over the whole matrix
    bits_per_weight: float

    @property
    def cost(self) -> str:
        """Error and bits, in words."""
        return f"error {self.error:.1%} of the weights' size, {number(round(self.bits_per_weight, 3))} bits a weight"


def levels_picture(now: Rounded, before: Rounded | None = None) -> Picture:
    """Weights, rounded weights and errors of a patch; the weights' histogram with the levels; error and bits."""
    with theme.style():
        picture = Picture(figsize=(10, 4.5), dpi=theme.DPI)
        _heatmaps(picture.add_axes((0.012, 0.015, 0.46, 0.825)), now)
        _histogram(picture.add_axes((0.515, 0.34, 0.47, 0.46)), now, before)
        _costs(picture.add_axes((0.515, 0.02, 0.47, 0.16)), now, before)
        _heading(picture, now, before)
        picture.words = levels_words(now, before)
    return picture


def levels_words(now: Rounded, before: Rounded | None = None) -> str:
    """What `levels_picture` shows, in words."""
    rows, columns = now.patch.shape
    busiest = max(now.used)
    words = (
        f"{rows} x {columns} of the weights, the same rounded, and the errors. {now.label}: {len(now.levels)} levels, "
        f"the busiest holds {busiest:.0%} of the weights; {now.cost}."
    )
    return f"{words} Before: {before.label}: {before.cost}." if before else words


def _heatmaps(axes: Axes, now: Rounded) -> None:
    """Three maps beneath each other in one set of axes: three sets would take three times as long to draw."""
    top = float(now.patch.abs().max()) or 1.0
    error = (now.patch_hat - now.patch) * STRONGER
    maps = (("weights", now.patch), ("rounded", now.patch_hat), (f"error, colours {STRONGER} x as strong", error))
    for row, (name, values) in enumerate(maps):
        low = 2 - row
        axes.imshow(
            values.numpy(), cmap=SIGNED, vmin=-top, vmax=top, aspect="auto", interpolation="none",
            extent=(0, 1, low, low + 0.77),
        )  # fmt: skip
        axes.add_patch(Rectangle((0, low), 1, 0.77, fill=False, edgecolor=theme.GREY, linewidth=0.8))
        axes.text(0, low + 0.8, name, size=9)
    axes.set(xlim=(0, 1), ylim=(0, 2.93))
    axes.set_axis_off()


def _histogram(axes: Axes, now: Rounded, before: Rounded | None) -> None:
    width = 2 / BINS
    centres = [-1 + width * (at + 0.5) for at in range(BINS)]
    tallest = max(now.spread)
    axes.fill_between(centres, now.spread, step="mid", color=theme.PALE_GREY, linewidth=0)
    if before is not None and before.levels != now.levels:
        strokes(axes, before.levels, -0.13 * tallest, -0.02 * tallest, color=theme.GREY, lw=0.7, linestyle=_DASHES)
    scale = tallest / max(now.used)
    strokes(axes, now.levels, 0, [share * scale for share in now.used], color=theme.BLUE, lw=_line(now), zorder=3)
    axes.set(xlim=(min(-1.06, min(now.levels) - 0.06), 1.06), ylim=(-0.14 * tallest, 1.08 * tallest), yticks=[])
    axes.set_title("grey: all weights; blue: how many snap to each level", size=9, weight="normal", pad=3)
    axes.set_xlabel("place in the range of the group (-1 to 1)", labelpad=1)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _line(now: Rounded) -> float:
    return 4 if len(now.levels) <= 4 else 3 if len(now.levels) <= 16 else 1


def _costs(axes: Axes, now: Rounded, before: Rounded | None) -> None:
    """Two bars, each with its own full length: an error of 65%, and 9 bits a weight."""
    for row, (name, of, full) in enumerate((("error", _error, 0.65), ("bits a weight", _bits, 9.0))):
        share = min(of(now) / full, 1)
        axes.barh(row, share, height=0.6, color=(theme.VERMILION, theme.ORANGE)[row])
        if before is not None:
            axes.barh(row, min(of(before) / full, 1), height=0.86, fill=False, edgecolor=theme.SOFT, linestyle=_DASHES)
        text = f"{of(now):.1%}" if row == 0 else number(round(of(now), 3))
        axes.annotate(
            text, (share, row), xytext=(5, 0), textcoords="offset points", va="center", weight="bold", bbox=theme.MASK
        )
        axes.annotate(name, (0, row), xytext=(-6, 0), textcoords="offset points", va="center", ha="right", size=9)
    axes.set(xlim=(-0.2, 1.13), ylim=(1.6, -0.6), xticks=[], yticks=[])
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _error(rounded: Rounded) -> float:
    return rounded.error


def _bits(rounded: Rounded) -> float:
    return rounded.bits_per_weight


def _heading(picture: Picture, now: Rounded, before: Rounded | None) -> None:
    picture.text(0.012, 0.945, f"A real matrix in {now.label}", size=11.5, weight="bold")
    handles = [
        Patch(color=theme.BLUE, label="above zero"), Patch(color=theme.VERMILION, label="below zero"),
    ]  # fmt: skip
    if before is not None:
        handles.append(Patch(fill=False, edgecolor=theme.SOFT, linestyle=_DASHES, label=f"before: {before.label}"))
    picture.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.935), ncols=3, borderaxespad=0.2, handlelength=1.1,
        handleheight=0.9, columnspacing=1.4,
    )  # fmt: skip
