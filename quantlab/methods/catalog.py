"""Every method by its name: what it needs, and the function that chooses the codes.

A method may have two parts. `scale` looks at all layers that share an input and finds how to rescale its channels (AWQ,
SmoothQuant): the caller folds that into the weights and into whatever makes the input. `quantize` then chooses codes,
one layer at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from quantlab.core import Format, LayerStats, QuantizedTensor, Quantizer
from quantlab.errors import unknown
from quantlab.methods.awq import awq, awq_scale
from quantlab.methods.combined import awq_gptq, awq_gptq_many, priced_scale
from quantlab.methods.gptq import gptq, gptq_many
from quantlab.methods.hqq import hqq
from quantlab.methods.importance import imatrix
from quantlab.methods.rtn import rtn
from quantlab.methods.smoothquant import smoothing

Scaler = Callable[[Sequence[Tensor], LayerStats, Format], Tensor]
"""Weights [n_i, k] that share an input, its statistics, the format -> scale [k] (weights * scale, inputs / scale)."""

Together = Callable[[Sequence[Tensor], LayerStats | None, Format], list[QuantizedTensor]]
"""`quantize` for all layers [n_i, k] that share an input at once: the same results, the shared work done once."""


@dataclass(frozen=True)
class Method:
    """A name for a way to choose codes.

    norms_only: scales are folded into norms alone, not into v and up (SmoothQuant). paired: it also looks at what the
    original model's inputs were (`LayerStats.C`). Options of a method are the keyword-only arguments of its functions.
    """

    name: str
    summary: str
    source: str
    quantize: Quantizer
    scale: Scaler | None = None
    needs_stats: bool = False
    together: Together | None = None
    norms_only: bool = False
    paired: bool = False


METHODS = {
    method.name: method
    for method in (
        Method("rtn", "round to nearest", "the baseline of every paper", rtn),
        Method("imatrix", "errors weighed by mean x^2", "llama.cpp, llama-imatrix", imatrix, needs_stats=True),
        Method("gptq", "later columns make up for errors", "Frantar et al. 2022, 2210.17323", gptq, needs_stats=True,
               together=gptq_many),
        Method("awq", "scaled columns, clipped groups", "Lin et al. 2023, 2306.00978", awq, scale=awq_scale,
               needs_stats=True),
        Method("awq_gptq", "AWQ's scales, GPTQ's sweep, both refined", "quantlab/methods/combined.py", awq_gptq,
               scale=priced_scale, needs_stats=True, together=awq_gptq_many, paired=True),
        Method("hqq", "zero points that outliers do not move", "Badri & Shaji 2023, mobiusml.github.io/hqq_blog", hqq),
        Method("smoothquant", "input outliers moved into the weights; int8", "Xiao et al. 2022, 2211.10438", rtn,
               scale=smoothing, needs_stats=True, norms_only=True),
    )
}  # fmt: skip


def get(name: str) -> Method:
    """The method of this name; an unknown name raises with the nearest one."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
