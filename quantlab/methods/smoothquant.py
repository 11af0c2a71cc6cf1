"""SmoothQuant: move the difficulty from the activations, which have outliers, to the weights, which have none.

To multiply in 8 bits, X must be rounded as well as W. A few channels of X are a hundred times larger than the rest;
with one scale for a whole token they leave hardly a level for the others. But a channel may be divided by any number
that its weights are multiplied by (the paper's equations 3 and 4):

    y = (X diag(s)^-1) (diag(s) W')        s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)

alpha = 0 takes nothing from the weights' comfort, alpha = 1 gives the activations perfect ease; at 0.5 both sides of a
channel get the same size, sqrt(max|X_j| max|W_j|). All layers that read X share s, so W_j is over all of them.

The scale is folded into the norm before, and the weights are then rounded to nearest, int8 with a scale for each row.
The activations are rounded when the model runs: `quantlab.quantize(..., activations="int8")`.

Source: Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
arXiv 2211.10438; the authors' code, github.com/mit-han-lab/smoothquant, `smooth_ln_fcs`, whose floor of 1e-5 under
max|W_j| and under s_j is kept. llm-compressor 0.14 takes max X_j - min X_j where this takes max|X_j|, and 2 max|W_j|:
for a channel that reaches as far below zero as above, its s_j is 2^(2 alpha - 1) times this one, the same at 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quantlab.core import Format, LayerStats, check_weights

FLOOR = 1e-5  # of max|W_j| and of s_j: a channel without weights or without inputs


def smoothing(Ws: Sequence[Tensor], stats: LayerStats, fmt: Format, *, alpha: float = 0.5) -> Tensor:
    """The scale [k]: multiply the columns of each W [n_i, k] by it, divide their common input by it.

    `fmt` makes no difference. Raises ValueError for an alpha outside 0 to 1, or statistics of another layer.

    >>> stats = LayerStats(1, torch.eye(2), torch.tensor([1.0, 100.0]), torch.tensor([1.0, 100.0]))
    >>> from quantlab.formats.catalog import get
    >>> smoothing([torch.tensor([[0.5, -0.5], [1.0, 1.0]])], stats, get("int8"))  # 1 and 10 on both sides
    tensor([ 1., 10.])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 (all to the activations) to 1 (all to the weights), got {alpha}")
    if not Ws:
        raise ValueError("smoothing needs at least one layer that reads the input")
    for W in Ws:
        check_weights(W)
        stats.check(W)
    reach = torch.stack([W.float().abs().amax(0) for W in Ws]).amax(0).clamp(min=FLOOR)  # [k]  max|W_j|
    scale: Tensor = stats.x_absmax.float() ** alpha / reach ** (1 - alpha)
    return scale.clamp(min=FLOOR)
