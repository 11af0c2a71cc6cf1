"""How sure a mean is, when the samples come in clusters.

The tokens of one story are not independent: a story that one format finds hard is hard from its first line to its last.
Treating 17,000 tokens as 17,000 samples would give an error bar several times too small. The unit of independence is
the story:

    se = sqrt( G/(G-1) * sum over stories of (sum over its tokens of (x - mean))^2 ) / N       G stories, N tokens

Source: Liang and Zeger 1986 (the cluster-robust variance; G/(G-1) is the usual correction for few clusters); Miller
2024, "Adding error bars to evals", arXiv 2411.00640, for language models. With one token a story it is the textbook's
standard error.

Two models on the same text are compared story by story, since a story that is hard for one is hard for the other. Is a
difference more than chance? If it were chance, each story's difference might as well have had the other sign:

    p = the share of all ways to give signs to the stories' differences whose sum is as far from 0 as the one seen

Source: Fisher 1935, "The design of experiments", 21 (the randomization test). It asks for no bell curve, which the few
stories of a test would not make; with n of them p cannot be below 2 / 2^n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

FLIPS = 2**14  # ways to give signs: all of them for up to 14 stories, as many drawn at random for more
LEVEL = 0.05  # a difference that chance gives more often than this is none


def clustered_stderr(x: Tensor, cluster: Tensor) -> float:
    """Standard error of the mean of x [N], whose samples belong to clusters [N] (any whole numbers).

    >>> clustered_stderr(torch.tensor([1.0, 1.0, 3.0, 3.0]), torch.tensor([0, 0, 1, 1]))
    1.0
    """
    if x.shape != cluster.shape or x.ndim != 1:
        raise ValueError(f"samples {list(x.shape)} and clusters {list(cluster.shape)} must be two lists of one length")
    sums = _sums(x.double() - x.double().mean(), cluster)
    count = len(sums)
    return math.sqrt(count / (count - 1) * float(sums.square().sum())) / x.numel()


def _sums(x: Tensor, cluster: Tensor) -> Tensor:
    """The sum of x [N] over each cluster; raises ValueError for fewer than two."""
    _, member = torch.unique(cluster, return_inverse=True)
    count = int(member.max()) + 1 if member.numel() else 0
    if count < 2:
        raise ValueError(f"an error bar needs at least 2 independent texts, got {count}; measure on more text")
    return torch.zeros(count, dtype=torch.float64).index_add_(0, member, x)


def chance(x: Tensor, y: Tensor, cluster: Tensor) -> float:
    """How often chance alone would part the means of x [N] and y [N], paired by cluster [N], as far as they are: p.

    >>> x, story = torch.arange(12.0), torch.arange(12) // 2
    >>> chance(x, x + 1, story)  # all six stories agree: 2 of the 64 ways
    0.03125
    >>> chance(x, x, story)
    1.0
    """
    sums = _sums(x.double() - y.double(), cluster)
    count = len(sums)
    if 2**count <= FLIPS:
        bits = (torch.arange(2**count)[:, None] >> torch.arange(count)) & 1  # every way
    else:
        dice = torch.Generator().manual_seed(0)  # the same answer each time it is asked
        bits = torch.randint(0, 2, (FLIPS, count), generator=dice)
        bits[0] = 1  # as they are: so p is never 0
    seen = abs(float(sums.sum()))
    as_far = ((2 * bits - 1).double() @ sums).abs() >= seen * (1 - 1e-9)
    return as_far.double().mean().item()


def sign_test(a: int, b: int) -> float:
    """How often as many fair coins would fall as unevenly as `a` against `b`, or more: p, two-sided and exact.

    >>> sign_test(6, 0), sign_test(0, 0)
    (0.03125, 1.0)
    """
    n = a + b
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(a, b) + 1)) / (1 << n))


def holm(p: Mapping[str, float], level: float = LEVEL) -> dict[str, bool]:
    """Which of several differences are more than chance, when all of them are looked at: name -> whether.

    Of twenty tests one is below 0.05 by chance. So the smallest p must be below level / n, the next below level / (n -
    1), and so on; the first that is not ends it (Holm 1979). The chance of even one wrong "different" stays `level`.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': True, 'b': False, 'c': False}
    """
    found, on = dict.fromkeys(p, False), True
    for at, name in enumerate(sorted(p, key=lambda name: p[name])):
        on = on and p[name] < level / (len(p) - at)
        found[name] = on
    return found


def share_stderr(right: Tensor) -> float:
    """Standard error of a share of independent yes/no outcomes [N], as lm-eval reports it.

    >>> round(share_stderr(torch.tensor([True, True, True, False])), 4)
    0.25
    """
    return clustered_stderr(right.double(), torch.arange(right.numel()))
