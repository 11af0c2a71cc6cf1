"""What sample text says about the inputs of a layer: which move together, and which are loud."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from quantlab.plots import theme
from quantlab.plots.levels import SIGNED
from quantlab.plots.theme import Picture

SHOWN = 96  # inputs in the map


def inputs_picture(H: Tensor) -> Picture:
    """Left: the correlation of the first inputs, two by two. Right: the mean square of each, the loudest first."""
    size = H.diagonal().clamp(min=1e-12).sqrt()
    correlation = (H / size / size[:, None]).float()
    with theme.style():
        picture = Picture(figsize=(10, 3.9), dpi=theme.DPI)
        _map(picture.add_axes((0.03, 0.04, 0.33, 0.75)), correlation[:SHOWN, :SHOWN])
        _loudness(picture.add_axes((0.47, 0.16, 0.51, 0.6)), H.diagonal())
        picture.text(0.012, 0.94, "What the text says about a layer's inputs: H = X'X", size=11.5, weight="bold")
        picture.words = inputs_words(H)
    return picture


def inputs_words(H: Tensor) -> str:
    """What `inputs_picture` shows, in words."""
    size = H.diagonal().clamp(min=1e-12).sqrt()
    correlation = (H / size / size[:, None]).float()
    off = correlation[~torch.eye(len(H), dtype=torch.bool)].abs()
    loud = H.diagonal().sort(descending=True).values
    return (
        f"{len(H)} inputs. Two of them have a correlation of {off.mean():.2f} on average (sign left out), the closest "
        f"pair {off.max():.2f}. The loudest input has {loud[0] / loud.median():.1f} times the mean square of the "
        "middle one. GPTQ uses the whole map; AWQ and importance matrices only its diagonal; round to nearest nothing."
    )


def _map(axes: Axes, correlation: Tensor) -> None:
    axes.imshow(correlation.numpy(), cmap=SIGNED, vmin=-1, vmax=1, interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.set_title(f"correlation of inputs 1 to {len(correlation)} (GPTQ)", size=9, weight="normal", pad=4)
    axes.grid(visible=False)


def _loudness(axes: Axes, diagonal: Tensor) -> None:
    loud = (diagonal / diagonal.median()).clamp(min=1e-6).sort(descending=True).values
    axes.plot(range(1, len(loud) + 1), loud.tolist(), color=theme.BLUE, linewidth=1.8)
    axes.axhline(1, color=theme.GREY, linewidth=0.8)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlim=(-0.02 * len(loud), 1.01 * len(loud)), xlabel="inputs, the loudest first")
    axes.set_title("mean square, the middle one is 1 (log scale): AWQ, imatrix", size=9, weight="normal", pad=4)
