"""How every picture of the course looks, and a figure that can say what it shows.

Colours are Okabe and Ito's, told apart by every common kind of colour blindness (https://jfly.uni-koeln.de/color/);
no picture relies on colour alone. `Picture` is a matplotlib figure with `words`: the alternative text of its image and
the sentence printed beneath it in a notebook. Nothing here touches pyplot or its global state.
"""

from __future__ import annotations

import base64
import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"
INK, SOFT, FAINT, PAPER = "#1F2933", "#5B6672", "#E1E6EA", "#FFFFFF"  # text, secondary text, lines, background
GREY, PALE_GREY, PALE_SKY = "#9AA5B1", "#E7EBEE", "#ABDAF4"

MASK = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}  # behind text, so that no line runs through it

DPI = 150  # pixels an inch in the file; shown at 96, so that it is sharp on dense screens too

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],  # the first comes with matplotlib
    "svg.fonttype": "none",
    "svg.hashsalt": "quantlab",  # the same picture is the same file
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "hatch.linewidth": 0.8,
}


def style() -> AbstractContextManager[None]:
    """The context in which pictures are drawn: `with style(): ...`."""
    return matplotlib.rc_context(_RC)


class Picture(Figure):
    """A figure with `words`, which a notebook shows as an image with alternative text and the words beneath it."""

    words: str = ""

    @classmethod
    def blank(cls, width: float, height: float, panels: int = 1) -> tuple[Picture, list[Axes]]:
        """An empty picture of so many inches with panels side by side; call it inside `style()`."""
        picture = cls(figsize=(width, height), dpi=DPI)
        grid = picture.subplots(1, panels, squeeze=False)
        return picture, list(grid[0])

    def png(self) -> bytes:
        """The picture as a PNG file, the same bytes each time: what notebooks keep."""
        return self._file("png", {"Software": None})

    def svg(self) -> bytes:
        """The picture as an SVG file with its text as text, drawn in half the time: what a live control shows."""
        return self._file("svg", {"Date": None, "Creator": None})

    def _file(self, kind: str, metadata: dict[str, None]) -> bytes:
        buffer = io.BytesIO()
        with style():
            self.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        return buffer.getvalue()

    def bundle(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Data and metadata of the notebook output: the image, its size on the page, its alternative text."""
        size = {"width": round(self.get_figwidth() * 96), "height": round(self.get_figheight() * 96)}
        png = base64.b64encode(self.png()).decode()
        return {"image/png": png, "text/plain": self.words}, {"image/png": {"alt": self.words, **size}}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        data, metadata = self.bundle()
        display(data, metadata=metadata, raw=True)
        display({"text/markdown": self.words, "text/plain": self.words}, raw=True)

    def __repr__(self) -> str:
        return self.words or super().__repr__()

    __str__ = __repr__
