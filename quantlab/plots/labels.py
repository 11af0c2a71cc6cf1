"""Names beside points, placed so that they cover neither a point nor each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from matplotlib.axes import Axes

from quantlab.plots import theme

_HEIGHT, _WIDTH = 1.15, 0.6  # of a line and of a character, in font sizes (DejaVu Sans)


@dataclass(frozen=True)
class _Box:
    """A rectangle in points of the page."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: _Box) -> float:
        """The shared area."""
        return max(0.0, min(self.x1, other.x1) - max(self.x0, other.x0)) * max(
            0.0, min(self.y1, other.y1) - max(self.y0, other.y0)
        )


def label_points(
    axes: Axes, points: Sequence[tuple[float, float, str]], avoid: Sequence[tuple[float, float]] = (), size: float = 8.8
) -> None:
    """Write each (x, y, name) beside its point, clear of all of them and of those to `avoid`.

    Call it when the axes' limits and position are final.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    to_points = 72 / figure.dpi
    pixels = axes.transData.transform([(x, y) for x, y, _ in points] + list(avoid)) * to_points
    frame = axes.get_window_extent()
    page = _Box(*(value * to_points for value in (frame.x0, frame.y0, frame.x1, frame.y1)))
    taken = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in pixels]
    for (x, y, name), (px, py) in zip(points, pixels, strict=False):  # those to avoid have no name
        best: tuple[float, int, int, str, _Box] | None = None
        for rank, (dy, dx) in enumerate(product((0, 11, -11, 20, -20, 29, -29), (8, -8))):
            width, half = _WIDTH * size * len(name), _HEIGHT * size / 2
            left = px + dx if dx > 0 else px + dx - width
            box = _Box(left, py + dy - half, left + width, py + dy + half)
            inside = box.overlap(page) / (2 * half * width)
            cost = sum(box.overlap(other) for other in taken) + 500 * (1 - inside) + 0.5 * rank
            if best is None or cost < best[0]:
                best = (cost, dx, dy, "left" if dx > 0 else "right", box)
        assert best is not None
        _, dx, dy, align, box = best
        taken.append(box)
        line = {"arrowstyle": "-", "color": theme.GREY, "linewidth": 0.6, "shrinkB": 4} if dy else None
        axes.annotate(
            name, (x, y), xytext=(dx, dy), textcoords="offset points", ha=align, va="center", size=size,
            arrowprops=line, bbox=theme.MASK, zorder=2,
        )  # fmt: skip
