"""Two formats under the roof of a card: tokens a second against the batch, and what one step's time is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from quantlab.plan.roofline import Step
from quantlab.plots import theme
from quantlab.plots.theme import Picture

_DASHES = (0, (3, 2))


@dataclass(frozen=True)
class Roofs:
    """The bound of each batch in the large and in the small format; `at` is the batch chosen."""

    card: str
    large: str
    small: str
    batches: Sequence[int]
    large_steps: Sequence[Step]
    small_steps: Sequence[Step]
    at: int
    full_until: float  # up to this batch the matrices gain the whole ratio of bytes
    none_from: float | None  # from this batch they gain nothing

    @property
    def gain(self) -> float:
        """How many times as fast the small format is at this batch."""
        return self.large_steps[self.at].seconds / self.small_steps[self.at].seconds

    @property
    def said(self) -> str:
        """Card, formats, batch and gain, in words."""
        return f"{self.card}, {self.small} against {self.large}, batch {self.batches[self.at]}: {self.gain:.2f} times"


def roofline_picture(now: Roofs, before: Roofs | None = None) -> Picture:
    """Left: the bound of tokens a second against the batch. Right: the parts of a step at the batch chosen."""
    with theme.style():
        picture = Picture(figsize=(10, 4.1), dpi=theme.DPI)
        _curves(picture.add_axes((0.075, 0.14, 0.44, 0.6)), now, before)
        _parts(picture.add_axes((0.7, 0.14, 0.285, 0.6)), now)
        picture.text(0.012, 0.945, f"PREDICTED: {now.said} as fast", size=11.5, weight="bold")
        handles = [
            Line2D([], [], color=theme.GREY, linewidth=1.8, label=now.large),
            Line2D([], [], color=theme.BLUE, linewidth=1.8, label=now.small),
        ]
        if before is not None:
            handles.append(Line2D([], [], color=theme.SOFT, linestyle=_DASHES, label=f"before: {before.small}"))
        picture.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.004, 0.93), ncols=3, handletextpad=0.5)
        picture.words = roofline_words(now, before)
    return picture


def roofline_words(now: Roofs, before: Roofs | None = None) -> str:
    """What `roofline_picture` shows, in words."""
    large, small = now.large_steps[now.at], now.small_steps[now.at]
    until = (
        f"its matrices gain nothing from batch {now.none_from:.0f} on" if now.none_from else "it is faster at any batch"
    )
    words = (
        f"{now.said} as fast. The bound is {large.tokens_per_s:,.0f} tokens a second in {now.large} (its matrices "
        f"wait for {large.bound}), {small.tokens_per_s:,.0f} in {now.small} ({small.bound}). The small format gains "
        f"all that its bytes allow up to batch {now.full_until:.0f}; {until}."
    )
    return f"{words} Before: {before.said}." if before else words


def _curves(axes: Axes, now: Roofs, before: Roofs | None) -> None:
    if before is not None:
        speeds = [step.tokens_per_s for step in before.small_steps]
        axes.plot(before.batches, speeds, color=theme.SOFT, linestyle=_DASHES, linewidth=1.2)
    for steps, colour in ((now.large_steps, theme.GREY), (now.small_steps, theme.BLUE)):
        axes.plot(now.batches, [step.tokens_per_s for step in steps], color=colour, linewidth=1.8)
        axes.plot(now.batches[now.at], steps[now.at].tokens_per_s, "o", color=colour, markersize=8,
                  markeredgecolor=theme.PAPER, zorder=4)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("batch: texts at once")
    axes.set_title("tokens a second, all texts together, at best", size=9, weight="normal", pad=3)
    if now.none_from and now.none_from <= now.batches[-1]:
        axes.axvline(now.none_from, color=theme.VERMILION, linewidth=1, linestyle=_DASHES)
        axes.annotate("crossover", (now.none_from, 0.04), xycoords=("data", "axes fraction"), xytext=(4, 0),
                      textcoords="offset points", size=8.8, color=theme.VERMILION)  # fmt: skip


def _parts(axes: Axes, now: Roofs) -> None:
    """For each format: reading and multiplying beside each other (the longer counts), then attention."""
    rows = ((now.large, now.large_steps[now.at]), (now.small, now.small_steps[now.at]))
    names, edge = [], 0.0
    for row, (name, step) in enumerate(rows):
        attention = max(step.read_kv_s, step.attend_s)
        parts = (("read", step.read_weights_s, theme.SKY), ("multiply", step.multiply_s, theme.ORANGE),
                 ("attention", attention, theme.PURPLE))  # fmt: skip
        for at, (part, seconds, colour) in enumerate(parts):
            y = 3.6 * row + at
            axes.barh(y, 1000 * seconds, height=0.8, color=colour)
            axes.annotate(f"{1000 * seconds:.3g}", (1000 * seconds, y), xytext=(4, 0), textcoords="offset points",
                          va="center", size=8.8)  # fmt: skip
            names.append((y, f"{part}, {name}"))
            edge = max(edge, 1000 * seconds)
    axes.set_yticks([y for y, _ in names], [name for _, name in names], size=8.2)
    axes.tick_params(axis="y", labelcolor=theme.INK)
    axes.set(xlim=(0, 1.2 * edge), ylim=(6.4, -0.8), xlabel="milliseconds")
    axes.set_title("one step: max(read, multiply) + attention", size=9, weight="normal", pad=3)
    axes.grid(visible=False, axis="y")
