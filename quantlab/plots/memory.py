"""Memory that a model needs, stacked by part, above the GPUs that may hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from quantlab.errors import UsageError
from quantlab.lesson.message import number
from quantlab.plots import theme
from quantlab.plots.theme import Picture

PARTS = {  # of the memory a model needs, in the order they are stacked: colour, colour of the text on it
    "weights": (theme.BLUE, "white"),
    "KV cache": (theme.ORANGE, theme.INK),
    "overhead": (theme.GREY, theme.INK),
}
_EDGES = [m * 10**e for e in range(-1, 5) for m in (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8)]  # of the axis, GiB
_DASHES = (0, (3, 2))


@dataclass(frozen=True)
class Need:
    """What one setting needs: GiB of each part, by the names in PARTS; a line break in the label is drawn."""

    label: str
    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        """GiB in all."""
        return sum(self.parts.values())

    @property
    def name(self) -> str:
        """The label in one line."""
        return " ".join(self.label.split())


def memory_bars(
    needs: Sequence[Need], gpus: Mapping[str, float], ghost: Need | None = None, title: str = ""
) -> Picture:
    """Stacked bars of memory above the GPUs that may hold them.

    `gpus` maps names to usable GiB; `ghost` is an earlier setting, drawn as a dashed outline around the first bar.
    """
    if not needs or any(set(need.parts) - set(PARTS) for need in needs):
        raise UsageError(f"memory_bars needs at least one Need whose parts are among: {', '.join(PARTS)}")
    largest = max(need.total for need in (*needs, *([ghost] if ghost else [])))
    edge = _edge(max(largest, min(gpus.values(), default=0)))
    height = 0.34 * (len(needs) + len(gpus)) + (1.45 if gpus else 1.3)
    with theme.style():
        picture, (axes,) = Picture.blank(8.2, height)
        picture.subplots_adjust(left=0.19, right=0.97, top=1 - 0.66 / height, bottom=0.52 / height)
        for row, need in enumerate(needs):
            _stack(axes, row, need, edge)
        levels = [*range(len(needs)), *(len(needs) + 0.45 + row for row in range(len(gpus)))]
        for level, gib in zip(levels[len(needs) :], gpus.values(), strict=True):
            _capacity(axes, level, gib, needs, edge)
        if len(needs) == 1 and gpus:
            axes.plot([needs[0].total] * 2, [0.34, levels[-1] + 0.4], color=theme.INK, linewidth=0.9, zorder=2)
        if ghost is not None:
            _outline(axes, ghost)
        axes.set_yticks(levels, [need.label for need in needs] + list(gpus))
        axes.tick_params(axis="y", labelcolor=theme.INK)
        axes.set(xlim=(0, edge), ylim=(levels[-1] + 0.5, -0.55), xlabel="memory in GiB")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        _heading(picture, height, title or "Memory needed, and what a GPU holds", ghost)
        picture.words = memory_words(needs, gpus, ghost)
    return picture


def memory_words(needs: Sequence[Need], gpus: Mapping[str, float], ghost: Need | None = None) -> str:
    """What `memory_bars` shows, in words."""
    sentences = []
    for need in needs:
        parts = ", ".join(f"{_gib(gib)} {part}" for part, gib in need.parts.items())
        holding = [name for name, gib in gpus.items() if gib >= need.total]
        where = f"It fits {', '.join(holding)}." if holding else "It fits none of these GPUs."
        sentences.append(f"{need.name} needs {_gib(need.total)}: {parts}. {where if gpus else ''}".strip())
    if ghost is not None:
        sentences.append(f"Before: {_gib(ghost.total)} ({ghost.name}).")
    return " ".join(sentences)


def _gib(gib: float) -> str:
    return number(round(gib, 1 if gib >= 10 else 2), "GiB")


def _edge(largest: float) -> float:
    """The right end of the axis, in steps, so that it stays put while a control moves a little."""
    return next((edge for edge in _EDGES if edge >= 1.18 * largest), 1.18 * largest)


def _stack(axes: Axes, row: int, need: Need, edge: float) -> None:
    left = 0.0
    for part, gib in need.parts.items():
        colour, text = PARTS[part]
        axes.barh(row, gib, left=left, height=0.62, color=colour, edgecolor=theme.PAPER, linewidth=0.8)
        if gib > 0.06 * edge:
            label = number(round(gib, 1 if gib >= 1 else 2))
            axes.text(left + gib / 2, row, label, ha="center", va="center", color=text, size=9)
        left += gib
    axes.annotate(
        _gib(left), (left, row), xytext=(7, 0), textcoords="offset points", va="center", weight="bold", size=10
    )


def _outline(axes: Axes, ghost: Need) -> None:
    axes.barh(0, ghost.total, height=0.82, fill=False, edgecolor=theme.SOFT, linestyle=_DASHES, linewidth=1.1)


def _capacity(axes: Axes, level: float, gib: float, needs: Sequence[Need], edge: float) -> None:
    """One GPU: its memory as a bar (an arrow where the axis cuts it), and whether each need fits."""
    fitting = [need for need in needs if need.total <= gib]
    end = min(gib, edge)
    colour = theme.PALE_SKY if fitting else theme.PALE_GREY
    axes.barh(level, end, height=0.5, color=colour)
    if len(needs) > 1:
        verdict = "fits " + ", ".join(need.label.split("\n")[-1] for need in fitting) if fitting else "fits none"
    elif fitting:
        verdict = f"fits, {_gib(gib - needs[0].total)} left"
    else:
        verdict = f"short by {_gib(needs[0].total - gib)}"
    text = f"{'✓' if fitting else '✗'} {gib:,.0f} GiB: {verdict}{'  ▸' if gib > edge else ''}"
    inside = end > (0.62 if len(needs) == 1 else 0.5) * edge
    axes.annotate(
        text, (end, level), xytext=(-6 if inside else 6, 0), textcoords="offset points", size=8.8, va="center",
        ha="right" if inside else "left", color=theme.INK if fitting else theme.SOFT,
        bbox={**theme.MASK, "facecolor": colour} if inside else theme.MASK,
    )  # fmt: skip


def _heading(picture: Picture, height: float, title: str, ghost: Need | None) -> None:
    picture.text(0.012, 1 - 0.23 / height, title, size=11.5, weight="bold")
    handles = [Patch(color=colour, label=part) for part, (colour, _) in PARTS.items()]
    if ghost is not None:
        handles.append(Patch(fill=False, edgecolor=theme.SOFT, linestyle=_DASHES, label=f"before: {ghost.name}"))
    picture.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.004, 1 - 0.27 / height), ncols=4, borderaxespad=0.2,
        handlelength=1.1, handleheight=0.9, columnspacing=1.4,
    )  # fmt: skip
