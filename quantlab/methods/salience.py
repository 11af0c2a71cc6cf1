"""The salient columns: a few inputs carry most of the signal, so the weights that read them deserve more than rounding.

    salient(stats, 0.01)        the 1% of columns whose inputs are largest: mean |x|
    keep_columns(W, fmt, ...)   those in 16 bit, all the others rounded

It is the experiment that AWQ starts from (its table 1): keeping 1% of the columns in 16 bit by the size of their
**inputs** saves most of the quality, by the size of their weights hardly anything, at random nothing. It is no format:
a matrix of two widths is slow to multiply, and so AWQ (quantlab/methods/awq.py) scales the columns instead.

Source: Lin et al. 2023, "AWQ: Activation-aware Weight Quantization", arXiv 2306.00978, section 3.1.
"""

from __future__ import annotations

from torch import Tensor

from quantlab.core import Format, LayerStats, check_weights


def salient(stats: LayerStats, share: float) -> Tensor:
    """The columns whose inputs are largest on average, most salient first: [round(share * k), at least 1].

    >>> import torch
    >>> stats = LayerStats(1, torch.eye(4), torch.tensor([1.0, 5.0, 0.5, 2.0]), torch.tensor([1.0, 5.0, 0.5, 2.0]))
    >>> salient(stats, 0.5)
    tensor([1, 3])
    """
    return largest(stats.x_absmean, share)


def salient_by_weight(W: Tensor, share: float) -> Tensor:
    """The columns of W [n, k] with the largest norm: the choice that does not help.

    >>> import torch
    >>> salient_by_weight(torch.tensor([[1.0, -9.0], [2.0, 3.0]]), 0.5)
    tensor([1])
    """
    check_weights(W)
    return largest(W.float().norm(dim=0), share)


def largest(score: Tensor, share: float) -> Tensor:
    """The places of the largest of k scores, the largest first: round(share * k) of them, at least 1.

    Equal scores: the first comes first. Raises ValueError for a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share:g}; 0.01 is 1% of the columns")
    count = max(1, round(share * len(score)))
    return score.argsort(descending=True, stable=True)[:count]


def keep_columns(W: Tensor, fmt: Format, columns: Tensor) -> Tensor:
    """W_hat [n, k], float32: the `columns` in float16, all others as `fmt` rounds them.

    As in the paper the kept columns still take part in choosing the scales of their groups. Raises ValueError for
    columns that W does not have.

    >>> import torch
    >>> from quantlab.formats.catalog import get
    >>> W = torch.randn(4, 128, generator=torch.Generator().manual_seed(0)).half().float()
    >>> W_hat = keep_columns(W, get("int3_g128"), torch.tensor([5]))
    >>> (W_hat == W).all(0).nonzero().flatten()
    tensor([5])
    """
    k = W.shape[-1]
    if (wrong := columns[(columns < 0) | (columns >= k)]).numel():
        raise ValueError(f"column {int(wrong[0])} is not among the {k} of these weights; take this layer's columns")
    W_hat = fmt.quantize(W).dequantize()
    W_hat[:, columns] = W[:, columns].half().float()
    return W_hat
