"""What fewer bits cost: quality against bits a weight, for the rows of `quantlab compare`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
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

    `rows` are those of `quantlab compare --json`; the one named `bf16` is the baseline. Where many have the same bits,
    `quality_at_bits` has room for their names.
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
            label_points(axes, [(*at[others.index(row)], row["name"]) for row in named], avoid=at)
        picture.text(0.012, 0.945, title, size=11.5, weight="bold")
        picture.legend(
            handles=_handles(looks), loc="upper left", bbox_to_anchor=(0.004, 0.935), ncols=8, handletextpad=0.2
        )
        picture.words = quality_words(rows)
    return picture


def quality_words(rows: Sequence[Row]) -> str:
    """What `quality_vs_bits` shows, in words: every point, from the fewest bits to the most."""
    baseline, others = _split(rows)
    told = [
        f"{row['name']} at {number(round(row['bits_per_weight'], 2))} bits: "
        f"KL {row['kl_mean']:.2g} ± {row['kl_stderr']:.1g}, perplexity {number(row['perplexity'])}"
        for row in sorted(others, key=lambda row: row["bits_per_weight"])
    ]
    return (
        "KL divergence from bf16, and perplexity, against bits per weight. "
        f"The baseline bf16 has perplexity {number(baseline['perplexity'])}. {'; '.join(told)}." + _absent(rows, others)
    )


def quality_at_bits(rows: Sequence[Row], title: str = "Who keeps the most at these bits") -> Picture:
    """KL divergence from the baseline for each row, the best on top, and the bits that each really takes.

    `rows` as for `quality_vs_bits`; those that cannot be told apart from the best have their names in bold.
    """
    _, others = _split(rows)
    looks, ranked = _looks(others), sorted(others, key=lambda row: row["kl_mean"])
    height = 1.4 + 0.29 * len(ranked)
    with theme.style():
        picture, (left, right) = Picture.blank(10, height, panels=2)
        top, bottom = 1 - 0.98 / height, 0.35 / height
        for axes, x0, width in ((left, 0.3, 0.44), (right, 0.79, 0.19)):
            axes.set_position((x0, bottom, width, top - bottom))
            axes.set(ylim=(len(ranked) - 0.4, -0.6))
            axes.grid(axis="y", visible=False)
        _dots(left, ranked, looks)
        _sizes(right, ranked, looks)
        picture.text(0.012, 1 - 0.26 / height, title, size=11.5, weight="bold")
        picture.legend(handles=_handles(looks), loc="upper left", bbox_to_anchor=(0.004, 1 - 0.3 / height), ncols=8,
                       handletextpad=0.2)  # fmt: skip
        picture.words = ranking_words(rows)
    return picture


def ranking_words(rows: Sequence[Row]) -> str:
    """What `quality_at_bits` shows, in words: every row, from the best to the worst."""
    baseline, others = _split(rows)
    ranked = sorted(others, key=lambda row: row["kl_mean"])
    told = [
        f"{row['name']} {row['kl_mean']:.2g} ± {row['kl_stderr']:.1g}, {number(round(row['bits_per_weight'], 2))} bits"
        for row in ranked
    ]
    ties = [str(row["name"]) for row in ranked[1:] if row.get("tied")]
    return (
        f"KL divergence from bf16 (perplexity {number(baseline['perplexity'])}), the lowest first: {'; '.join(told)}."
        + (f" Not to be told apart from {ranked[0]['name']}: {', '.join(ties)}." if ties else "")
        + _absent(rows, others)
    )


def _dots(axes: Axes, ranked: Sequence[Row], looks: Mapping[str, tuple[str, str]]) -> None:
    values = [_shown(row["kl_mean"]) for row in ranked]
    for y, (row, value) in enumerate(zip(ranked, values, strict=True)):
        colour, marker = looks[str(row["backend"])]
        axes.errorbar(
            value, y, xerr=row["kl_stderr"], color=colour, marker=marker, markersize=6.5, markeredgecolor=theme.PAPER,
            markeredgewidth=0.8, elinewidth=1, capsize=2.5, zorder=3,
        )  # fmt: skip
    axes.set_yticks(range(len(ranked)), [str(row["name"]) for row in ranked])
    for label, row in zip(axes.get_yticklabels(), ranked, strict=True):
        label.set(weight="bold" if row.get("tied") else "normal", color=theme.INK)
    _log(axes.set_xscale, axes.xaxis, max(values) / min(values))
    axes.set_title("Mean KL divergence from bf16, in nats (log scale)", size=9.5, weight="normal")


def _sizes(axes: Axes, ranked: Sequence[Row], looks: Mapping[str, tuple[str, str]]) -> None:
    bits = [row["bits_per_weight"] for row in ranked]
    axes.barh(
        range(len(ranked)), bits, height=0.55, color=[looks[str(row["backend"])][0] for row in ranked], alpha=0.45
    )
    for y, value in enumerate(bits):
        axes.annotate(f"{value:.2f}", (value, y), xytext=(3, 0), textcoords="offset points", va="center", size=8.8)
    axes.set(xlim=(0, 1.25 * max(bits)), yticks=[])
    axes.set_title("Bits per weight", size=9.5, weight="normal")


def _absent(rows: Sequence[Row], drawn: Sequence[Row]) -> str:
    names = [str(row["name"]) for row in rows if row["name"] != "bf16" and row not in drawn]
    return f" Not drawn, for want of a finite figure: {', '.join(names)}." if names else ""


def _split(rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    baseline = next((row for row in rows if row["name"] == "bf16"), None)
    others = [row for row in rows if row["name"] != "bf16" and _measured(row)]
    if baseline is None or not others:
        raise UsageError("the picture needs the row named bf16 and at least one other; compare both")
    return baseline, others


def _measured(row: Row) -> bool:
    """Whether every figure of the picture is there; a model that fell apart may have an infinite perplexity."""
    values = [row.get(key) for key in ("bits_per_weight", "kl_mean", "kl_stderr", "perplexity")]
    return all(value is not None and math.isfinite(value) for value in values)


def _looks(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys(str(row["backend"]) for row in rows)
    spare = iter(_SPARE)
    return {name: _BACKENDS.get(name) or next(spare, (theme.INK, "X")) for name in names}


def _handles(looks: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """For the legend."""
    return [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6, label=name)
        for name, (colour, marker) in looks.items()
    ]


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
    ratio = max(values) / min(values)
    _log(axes.set_yscale, axes.yaxis, ratio)
    room = ratio**0.1 * 1.1
    axes.set(xlim=(min(min(bits) - 0.5, 1.7), max(bits) + 1.1), ylim=(min(values) / room, max(values) * room))


def _log(set_scale: Callable[[str], None], axis: Axis, ratio: float) -> None:
    """A logarithmic axis with plain numbers; ratio: of its largest value to its smallest."""
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def _front(bits: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points that no smaller one beats."""
    best, x, y = float("inf"), [], []
    for size, value in sorted(zip(bits, values, strict=True)):
        if value < best:
            best = value
            x.append(size)
            y.append(value)
    return x, y
