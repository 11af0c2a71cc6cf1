"""Formats against GPU generations, with the learner's own in a frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle

from quantlab.errors import UsageError
from quantlab.plan.support import How
from quantlab.plots import theme
from quantlab.plots.theme import Picture

_COLOURS = {How.NO: theme.PALE_GREY, How.WEIGHT_ONLY: theme.PALE_SKY, How.NATIVE: theme.GREEN}

Rows = Mapping[str, Mapping[str, How]]  # format -> generation -> how


def support_picture(rows: Rows, mine: str | None = None, title: str = "Who runs what") -> Picture:
    """A cell for each format and generation, in colour and in words; the column `mine` is framed."""
    if not rows:
        raise UsageError("support_picture needs at least one row")
    columns = list(next(iter(rows.values())))
    height = 0.36 * len(rows) + 1.15
    order = list(_COLOURS)
    cells = np.array([[order.index(how[name]) for name in columns] for how in rows.values()])
    with theme.style():
        picture, (axes,) = Picture.blank(8.6, height)
        picture.subplots_adjust(left=0.14, right=0.985, top=1 - 0.86 / height, bottom=0.08 / height)
        axes.imshow(cells, cmap=ListedColormap(list(_COLOURS.values())), vmin=-0.5, vmax=2.5, aspect="auto", alpha=0.75)
        for row, how in enumerate(rows.values()):
            for column, name in enumerate(columns):
                axes.text(column, row, how[name].value, ha="center", va="center", size=9)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.tick_params(labelcolor=theme.INK, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
        axes.grid(visible=False)
        axes.grid(visible=True, which="minor", color=theme.PAPER, linewidth=2)
        if mine in columns:
            at = columns.index(mine)
            frame = Rectangle((at - 0.5, -0.5), 1, len(rows), fill=False, edgecolor=theme.VERMILION, linewidth=3,
                              clip_on=False, zorder=4)  # fmt: skip
            axes.add_patch(frame)
        picture.text(0.012, 1 - 0.26 / height, title, size=11.5, weight="bold")
        handles = [Patch(color=colour, alpha=0.75, label=how.value) for how, colour in _COLOURS.items()]
        picture.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.99, 1 - 0.02 / height), ncols=3,
                       handlelength=1.1, handleheight=0.9)  # fmt: skip
        picture.words = support_words(rows, mine, title)
    return picture


def support_words(rows: Rows, mine: str | None = None, title: str = "Who runs what") -> str:
    """What `support_picture` shows, in words."""
    told = []
    for fmt, how in rows.items():
        ways = [
            f"{way.value} on {', '.join(names)}"
            for way in (How.NATIVE, How.WEIGHT_ONLY)
            if (names := [name for name, has in how.items() if has is way])
        ]
        told.append(f"{fmt}: {', '.join(ways) or 'nowhere'}")
    yours = f" Your GPU is of the generation {mine}." if mine else ""
    return f"{title}. {'; '.join(told)}.{yours}"
