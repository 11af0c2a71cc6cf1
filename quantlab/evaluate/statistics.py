"""How sure a mean is, when the samples come in clusters.

The tokens of one story are not independent: a story that one format finds hard is hard from its first line to its last.
Treating 17,000 tokens as 17,000 samples would give an error bar several times too small. The unit of independence is
the story:

    se = sqrt( G/(G-1) * sum over stories of (sum over its tokens of (x - mean))^2 ) / N       G stories, N tokens

Source: Liang and Zeger 1986 (the cluster-robust variance; G/(G-1) is the usual correction for few clusters); Miller
2024, "Adding error bars to evals", arXiv 2411.00640, for language models. With one token a story it is the textbook's
standard error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clustered_stderr(x: Tensor, cluster: Tensor) -> float:
    """Standard error of the mean of x [N], whose samples belong to clusters [N] (any whole numbers).

    >>> clustered_stderr(torch.tensor([1.0, 1.0, 3.0, 3.0]), torch.tensor([0, 0, 1, 1]))
    1.0
    """
    if x.shape != cluster.shape or x.ndim != 1:
        raise ValueError(f"samples {list(x.shape)} and clusters {list(cluster.shape)} must be two lists of one length")
    _, member = torch.unique(cluster, return_inverse=True)
    count = int(member.max()) + 1 if member.numel() else 0
    if count < 2:
        raise ValueError(f"an error bar needs at least 2 independent texts, got {count}; measure on more text")
    residual = x.double() - x.double().mean()
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, member, residual)
    return math.sqrt(count / (count - 1) * float(sums.square().sum())) / x.numel()


def share_stderr(right: Tensor) -> float:
    """Standard error of a share of independent yes/no outcomes [N], as lm-eval reports it.

    >>> round(share_stderr(torch.tensor([True, True, True, False])), 4)
    0.25
    """
    return clustered_stderr(right.double(), torch.arange(right.numel()))
