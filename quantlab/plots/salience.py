"""The columns of a layer by the size of their weights and of their inputs, those that are protected, and the error."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from quantlab.plots import theme
from quantlab.plots.theme import Picture

_DASHES = (0, (3, 2))


@dataclass(frozen=True, eq=False)
class Columns:
    """One way to protect some columns of a layer, measured."""

    label: str  # "1% by activations, kept in 16 bits"
    inputs: Tensor  # [k] mean |x|
    weights: Tensor  # [k] norm of each column
    chosen: Tensor  # the places of those protected
    error: float  # of the outputs, relative
    unprotected: float  # the same when all columns are rounded alike


def salience_picture(now: Columns, before: Columns | None = None) -> Picture:
    """Left: each column by its weights and its inputs. Right: the error of the layer's outputs."""
    with theme.style():
        picture = Picture(figsize=(10, 3.9), dpi=theme.DPI)
        _cloud(picture.add_axes((0.07, 0.125, 0.44, 0.64)), now)
        _bars(picture.add_axes((0.62, 0.22, 0.36, 0.5)), now, before)
        picture.text(0.012, 0.935, f"Protected: {now.label}", size=11.5, weight="bold")
        handles = [
            Line2D([], [], color=theme.GREY, marker="o", linestyle="", markersize=4, label="a column"),
            Line2D([], [], color=theme.VERMILION, marker="D", linestyle="", markersize=6, label="protected"),
        ]
        if before is not None:
            handles.append(Line2D([], [], color=theme.SOFT, linestyle=_DASHES, label=f"before: {before.label}"))
        picture.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.92), ncols=3, handletextpad=0.4)
        picture.words = salience_words(now, before)
    return picture


def salience_words(now: Columns, before: Columns | None = None) -> str:
    """What `salience_picture` shows, in words."""
    ratio = float(now.inputs.max() / now.inputs.mean())
    words = (
        f"{len(now.inputs)} columns; the largest input is {ratio:.1f} times the mean. Protected: {now.label}: the "
        f"outputs are {now.error:.1%} off; with nothing protected {now.unprotected:.1%}."
    )
    return f"{words} Before: {before.label}: {before.error:.1%}." if before else words


def _cloud(axes: Axes, now: Columns) -> None:
    weights, inputs = now.weights.numpy(), now.inputs.numpy()
    axes.plot(weights, inputs, "o", color=theme.GREY, markersize=3.2, alpha=0.5, markeredgewidth=0)
    axes.plot(
        weights[now.chosen], inputs[now.chosen], "D", color=theme.VERMILION, markersize=6,
        markeredgecolor=theme.PAPER, markeredgewidth=0.6,
    )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="size of the column's weights (norm)")
    axes.set_title("mean size of the column's input (log scale)", size=9, weight="normal", pad=3)


def _bars(axes: Axes, now: Columns, before: Columns | None) -> None:
    rows = (("nothing\nprotected", now.unprotected, theme.GREY), ("now", now.error, theme.VERMILION))
    edge = max(now.error, now.unprotected, before.error if before else 0)
    for row, (name, error, colour) in enumerate(rows):
        axes.barh(row, error, height=0.6, color=colour)
        axes.annotate(
            f"{error:.1%}", (error, row), xytext=(5, 0), textcoords="offset points", va="center", weight="bold",
            bbox=theme.MASK, zorder=4,
        )  # fmt: skip
        axes.annotate(name, (0, row), xytext=(-6, 0), textcoords="offset points", va="center", ha="right", size=9)
    if before is not None:
        axes.barh(1, before.error, height=0.82, fill=False, edgecolor=theme.SOFT, linestyle=_DASHES)
    axes.set(xlim=(0, 1.22 * edge), ylim=(1.6, -0.6), yticks=[], xticks=[])
    axes.set_title("error of the layer's outputs, share of their size", size=9, weight="normal", pad=3)
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
