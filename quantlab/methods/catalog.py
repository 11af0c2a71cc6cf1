"""Every method by its name: what it needs, and the function that chooses the codes.

A method may have two parts. `scale` looks at all layers that share an input and finds how to rescale its channels (AWQ,
SmoothQuant): the caller folds that into the weights and into whatever makes the input. `quantize` then chooses codes,
one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from quantlab.core import Format, LayerStats, Quantizer
from quantlab.errors import unknown
from quantlab.methods.rtn import rtn

Scaler = Callable[[Sequence[Tensor], LayerStats, Format], Tensor]
"""Weights [n_i, k] that share an input, its statistics, the format -> scale [k] (weights * scale, inputs / scale)."""


@dataclass(frozen=True)
class Method:
    """A name for a way to choose codes."""

    name: str
    summary: str
    source: str
    quantize: Quantizer
    scale: Scaler | None = None
    needs_stats: bool = False


METHODS = {
    method.name: method
    for method in (
        Method("rtn", "round to nearest", "the baseline of every paper", rtn),
    )
}  # fmt: skip


def get(name: str) -> Method:
    """The method of this name; an unknown name raises with the nearest one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
