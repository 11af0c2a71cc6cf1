"""What fewer bits cost: quality against bits a weight, for the rows of `quantlab compare`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from quantlab.errors import UsageError
from quantlab.lesson.message import number
from quantlab.plots import theme
from quantlab.plots.labels import label_points
from quantlab.plots.theme import Picture

Row = Mapping[str, Any]  # of `quantlab compare --json`

# colour and marker of each backend, so that neither alone tells them apart; others take the spare ones in order
_BACKENDS = {
    "quantlab": (theme.BLUE, "o"),
    "bitsandbytes": (theme.VERMILION, "s"),
    "llama.cpp": (theme.GREEN, "D"),
}
_SPARE = ((theme.PURPLE, "^"), (theme.ORANGE, "v"), (theme.SKY, "P"), (theme.INK, "X"))


NEAR = 1.1  # times the baseline's perplexity: points nearer than that are named once, together


def quality_vs_bits(rows: Sequence[Row], title: str = "What fewer bits cost") -> Picture:
    """KL divergence from the baseline, with its standard error, and perplexity, both against bits a weight.

    `rows` are those of `quantlab compare --json`; the row whose format is `bf16` is the baseline.
    """
    baseline, others = _split(rows)
    looks = _looks(others)
    with theme.style():
        picture, (left, right) = Picture.blank(10, 4.3, panels=2)
        picture.subplots_adjust(left=0.075, right=0.985, top=0.78, bottom=0.125, wspace=0.2)
        _scatter(left, others, "kl_mean", looks, error="kl_stderr")
        _scatter(right, others, "perplexity", looks)
        far = [row for row in others if row["perplexity"] > NEAR * baseline["perplexity"]]
        _baseline(right, baseline["perplexity"], len(others) - len(far))
        left.set_title("Mean KL divergence from bf16, in nats (log scale)", size=9.5, weight="normal")
        right.set_title("Perplexity (log scale)", size=9.5, weight="normal")
        for axes, key, named in ((left, "kl_mean", others), (right, "perplexity", far)):
            axes.set_xlabel("bits per weight, scales included")
            at = [(row["bits_per_weight"], _shown(row[key])) for row in others]
            label_points(axes, [(*at[others.index(row)], row["format"]) for row in named], avoid=at)
        picture.text(0.012, 0.945, title, size=11.5, weight="bold")
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=name)
            for name, (colour, marker) in looks.items()
        ]
        picture.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.935), ncols=8, handletextpad=0.2)
        picture.words = quality_words(rows)
    return picture


def quality_words(rows: Sequence[Row]) -> str:
    """What `quality_vs_bits` shows, in words: every point, from the fewest bits to the most."""
    baseline, others = _split(rows)
    absent = [str(row["format"]) for row in rows if row["format"] != "bf16" and row not in others]
    told = [
        f"{row['format']} at {number(round(row['bits_per_weight'], 2))} bits: "
        f"KL {row['kl_mean']:.2g} ± {row['kl_stderr']:.1g}, perplexity {number(row['perplexity'])}"
        for row in sorted(others, key=lambda row: row["bits_per_weight"])
    ]
    return (
        "KL divergence from bf16, and perplexity, against bits per weight. "
        f"The baseline bf16 has perplexity {number(baseline['perplexity'])}. {'; '.join(told)}."
        + (f" Not drawn, for want of a finite figure: {', '.join(absent)}." if absent else "")
    )


def _split(rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    baseline = next((row for row in rows if row["format"] == "bf16"), None)
    others = [row for row in rows if row["format"] != "bf16" and _measured(row)]
    if baseline is None or not others:
        raise UsageError("the picture needs the row whose format is bf16 and at least one other; compare both")
    return baseline, others


def _measured(row: Row) -> bool:
    """Whether every figure of the picture is there; a model that fell apart may have an infinite perplexity."""
    values = [row.get(key) for key in ("bits_per_weight", "kl_mean", "kl_stderr", "perplexity")]
    return all(value is not None and math.isfinite(value) for value in values)


def _looks(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys(str(row["backend"]) for row in rows)
    spare = iter(_SPARE)
    return {name: _BACKENDS.get(name) or next(spare, (theme.INK, "X")) for name in names}


def _shown(value: float) -> float:
    """A logarithmic axis has no zero: what is below 1e-9 is drawn there."""
    return max(value, 1e-9)


def _baseline(axes: Axes, perplexity: float, near: int) -> None:
    axes.axhline(perplexity, color=theme.SOFT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    others = f"; {near} within {NEAR - 1:.0%} of it" if near else ""
    axes.annotate(
        f"bf16: {number(round(perplexity, 2))}{others}", (0.99, perplexity), xycoords=("axes fraction", "data"),
        xytext=(0, -7), textcoords="offset points", ha="right", va="top", size=8.8, color=theme.SOFT,
    )  # fmt: skip


def _scatter(axes: Axes, rows: Sequence[Row], key: str, looks: Mapping[str, tuple[str, str]], error: str = "") -> None:
    bits = [row["bits_per_weight"] for row in rows]
    values = [_shown(row[key]) for row in rows]
    axes.plot(*_front(bits, values), color=theme.GREY, linewidth=1, alpha=0.7, zorder=1)
    for row, value in zip(rows, values, strict=True):
        colour, marker = looks[str(row["backend"])]
        axes.errorbar(
            row["bits_per_weight"], value, yerr=row[error] if error else None, color=colour, marker=marker,
            markersize=6.5, markeredgecolor=theme.PAPER, markeredgewidth=0.8, elinewidth=1, capsize=2.5, zorder=3,
        )  # fmt: skip
    axes.set_yscale("log")
    ratio = max(values) / min(values)
    room = ratio**0.1 * 1.1
    axes.set(xlim=(min(min(bits) - 0.5, 1.7), max(bits) + 1.1), ylim=(min(values) / room, max(values) * room))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _front(bits: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points that no smaller one beats."""
    best, x, y = float("inf"), [], []
    for size, value in sorted(zip(bits, values, strict=True)):
        if value < best:
            best = value
            x.append(size)
            y.append(value)
    return x, y
