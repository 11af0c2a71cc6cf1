"""A super-block of Q4_K as it lies in a file: 144 bytes, what each is for, and the levels that some of them make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle

from quantlab.plots import theme
from quantlab.plots.strokes import strokes
from quantlab.plots.theme import Picture

COLUMNS = 16  # bytes in a row of the picture
KINDS = ("d, the scale of scales", "dmin, the scale of minima", "6-bit scales and minima", "codes, two to a byte")
_COLOURS = (theme.VERMILION, theme.PURPLE, theme.ORANGE, theme.PALE_SKY)


@dataclass(frozen=True, eq=False)
class SuperBlock:
    """One weight of a super-block: the bytes that make it, and the levels that it could have had."""

    label: str  # "weight 3 of sub-block 0"
    octets: bytes  # 144
    marked: Sequence[int]  # the places of the bytes that make this weight
    weights: Sequence[float]  # the 32 of its sub-block
    levels: Sequence[float]  # 16, rising
    weight: float
    value: float
    error: float  # relative, of the sub-block

    @property
    def said(self) -> str:
        """The weight and what comes back."""
        return f"{self.label}: {self.weight:.5f} is stored as {self.value:.5f}"


def super_block_picture(now: SuperBlock, before: SuperBlock | None = None) -> Picture:
    """Left: the bytes, those of this weight framed. Right: the weights of its sub-block on their 16 levels."""
    with theme.style():
        picture = Picture(figsize=(10, 3.9), dpi=theme.DPI)
        _bytes(picture.add_axes((0.012, 0.03, 0.5, 0.74)), now)
        _levels(picture.add_axes((0.55, 0.16, 0.435, 0.56)), now, before)
        picture.text(0.012, 0.94, now.said, size=11.5, weight="bold")
        handles = [Patch(color=colour, label=kind) for kind, colour in zip(KINDS, _COLOURS, strict=True)]
        picture.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.925), ncols=4, handlelength=1.1,
                       handleheight=0.9, columnspacing=1.4)  # fmt: skip
        picture.words = super_block_words(now, before)
    return picture


def super_block_words(now: SuperBlock, before: SuperBlock | None = None) -> str:
    """What `super_block_picture` shows, in words."""
    read = ", ".join(f"{at} (0x{now.octets[at]:02x})" for at in now.marked)
    words = (
        f"{now.said}. Bytes {read} of the {len(now.octets)} say so. Its sub-block of {len(now.weights)} weights has "
        f"levels from {now.levels[0]:.4f} to {now.levels[-1]:.4f} and is {now.error:.1%} off."
    )
    return f"{words} Before: {before.said}, sub-block {before.error:.1%} off." if before else words


def kind_of(at: int) -> int:
    """Which of KINDS the byte at this place is.

    >>> [kind_of(at) for at in (0, 2, 4, 15, 16, 143)]
    [0, 1, 2, 2, 3, 3]
    """
    return 0 if at < 2 else 1 if at < 4 else 2 if at < 16 else 3


def _bytes(axes: Axes, now: SuperBlock) -> None:
    kinds = np.array([kind_of(at) for at in range(len(now.octets))]).reshape(-1, COLUMNS)
    rows = len(kinds)
    axes.imshow(kinds, cmap=ListedColormap(_COLOURS), vmin=-0.5, vmax=3.5, aspect="auto", interpolation="none",
                alpha=0.55, extent=(0, COLUMNS, rows, 0))  # fmt: skip
    strokes(axes, range(COLUMNS + 1), 0, rows, color=theme.PAPER, lw=1)
    axes.plot([x for _ in range(rows + 1) for x in (0, COLUMNS, np.nan)],
              [y for row in range(rows + 1) for y in (row, row, np.nan)], color=theme.PAPER, lw=1)  # fmt: skip
    for at in now.marked:
        row, column = divmod(at, COLUMNS)
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=theme.INK, linewidth=1.8, zorder=3))
        axes.text(column + 0.5, row + 0.54, f"{now.octets[at]:02x}", ha="center", va="center", size=8.5, weight="bold")
    axes.set(xlim=(-0.05, COLUMNS + 0.05), ylim=(rows + 0.05, -0.05))
    axes.set_axis_off()


def _levels(axes: Axes, now: SuperBlock, before: SuperBlock | None) -> None:
    if before is not None and before.levels != now.levels:
        strokes(axes, before.levels, 0.72, 0.9, color=theme.GREY, lw=1.2)
        axes.annotate("before", (1, 0.81), xycoords=("axes fraction", "data"), ha="right", va="center", size=8.5,
                      color=theme.SOFT, bbox=theme.MASK)  # fmt: skip
    strokes(axes, now.levels, -0.1, 0.55, color=theme.BLUE, lw=1.5)
    axes.plot(now.weights, [0.22] * len(now.weights), "o", color=theme.GREY, markersize=5, markeredgewidth=0, alpha=0.7)
    axes.plot(now.value, 0.22, "|", color=theme.VERMILION, markersize=36, markeredgewidth=3)
    axes.plot(now.weight, 0.22, "D", color=theme.VERMILION, markersize=7, markeredgecolor=theme.PAPER)
    axes.set(
        ylim=(-0.2, 1 if before is not None else 0.75),
        yticks=[],
        xlabel="weights of the sub-block (dots) on its 16 levels (blue)",
    )
    axes.set_title("red: this weight, and its level", size=9, weight="normal", pad=3)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
