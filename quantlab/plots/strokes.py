"""Many upright strokes as one line: matplotlib writes 256 separate ones ten times as slowly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from matplotlib.axes import Axes


def strokes(axes: Axes, places: Sequence[float], low: float, high: float | Sequence[float], **style: Any) -> None:
    """An upright stroke from `low` to `high` (one for all, or one for each) at each of these places.

    >>> from quantlab.plots.theme import Picture
    >>> _, (axes,) = Picture.blank(2, 1)
    >>> strokes(axes, [0.0, 1.0], 0, 2)
    >>> axes.lines[0].get_xdata().tolist()
    [0.0, 0.0, nan, 1.0, 1.0, nan]
    """
    tops = repeat(high) if isinstance(high, int | float) else high
    ends = [(low, top, math.nan) for _, top in zip(places, tops, strict=False)]
    xs = [x for place in places for x in (place, place, math.nan)]
    axes.plot(xs, [y for end in ends for y in end], **{"solid_capstyle": "butt", **style})
