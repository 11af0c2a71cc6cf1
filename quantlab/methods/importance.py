"""Importance: round as always, but let a column's errors count as much as its inputs are large.

A weight's error e in column j changes the output by e * x_j, so over many tokens it costs e^2 * mean(x_j^2). llama.cpp
records that mean for every column (its "imatrix") and each block chooses its scales by

    sum_j  mean(x_j^2) * (w_j - w_hat_j)^2        instead of        sum_j (w_j - w_hat_j)^2

It is the diagonal of H = X'X: GPTQ's cost without what columns have in common. Codes are still the nearest levels; only
scales and minima move, so only formats that search for them can use it (K-quants and their kin).

Source: llama.cpp, tools/imatrix and ggml-quants.c (`quant_weights`), release of llama-cpp-python 0.3.36, which weighs
further by the size of the weights: see quantlab.formats. Left out: its file of importances.
"""

from __future__ import annotations

from torch import Tensor

from quantlab.core import Format, LayerStats, QuantizedTensor


def imatrix(W: Tensor, stats: LayerStats | None, fmt: Format) -> QuantizedTensor:
    """W [n, k] in `fmt`, each block's scales chosen for the inputs that `stats` have seen.

    Raises ValueError without statistics, with those of another layer, and for a format that does not search for scales.
    """
    if stats is None:
        raise ValueError("imatrix needs the statistics of the layer's input; calibrate first, or take the method 'rtn'")
    stats.check(W)
    return fmt.quantize(W, stats.x_sqmean.float())
