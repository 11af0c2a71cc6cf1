"""Which weights matter most, and how to protect them: AWQ's first experiment, on one layer and on the whole model.

Some inputs of a layer are much larger than others. An error in a weight that reads a large input does more harm, so 1%
of the columns are protected: kept in 16 bits, or scaled up before rounding and down again after it,

    W X  =  (W t) (X / t)          W_hat = Q(W t) / t          t = s in the protected columns, 1 elsewhere

which is exact before rounding, and makes the steps of those columns s times finer as long as they do not become the
largest of their groups.

The bundled model is small, and has no outliers of the kind that large models have: a few inputs that are tens of times
larger than all others. `planted` gives it some, without changing what it computes: the largest inputs are multiplied by
that number and the weights that read them divided by it, t = 1 / planted.

Source: Lin et al. 2023, AWQ, arXiv 2306.00978, sections 2.1 and 2.2 (tables 1 and 2).
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import torch
from torch import Tensor

from quantlab.core import LayerStats
from quantlab.errors import unknown
from quantlab.evaluate.quality import Quality
from quantlab.lesson.lesson2.story import rounded, story_model
from quantlab.methods.salience import largest

CHOICES = ("activations", "weights", "chance")
SHARE = 0.01
PLANTED = 20.0  # how many times larger a planted outlier is


def columns(choice: str, name: str, W: Tensor, stats: LayerStats, planted: float = 1, share: float = SHARE) -> Tensor:
    """The columns of layer `name` to protect, chosen by the size of their inputs, of their weights, or by chance."""
    if choice not in CHOICES:
        raise unknown("choice", choice, CHOICES)
    loud = _loudness(W, stats, planted, share)
    scores = {
        "activations": stats.x_absmean * loud,
        "weights": W.norm(dim=0) / loud,
        "chance": torch.rand(W.shape[1], generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))),
    }
    return largest(scores[choice], share)


def protected(
    W: Tensor, stats: LayerStats, chosen: Tensor, scale: float | None, planted: float = 1, bits: int = 3,
    share: float = SHARE,
) -> Tensor:  # fmt: skip
    """W_hat [n, k] with the chosen columns scaled up while rounding, or kept as they are where `scale` is None."""
    t = 1 / _loudness(W, stats, planted, share)
    t[chosen] *= scale or 1
    W_hat = rounded(W * t, bits, symmetric=False) / t
    if scale is None:
        W_hat[:, chosen] = W[:, chosen]
    return W_hat


def _loudness(W: Tensor, stats: LayerStats, planted: float, share: float) -> Tensor:
    """What each input is multiplied by [k]: `planted` where it is among the largest, 1 elsewhere."""
    loud = torch.ones(W.shape[1])
    loud[largest(stats.x_absmean, share)] = planted
    return loud


@lru_cache(maxsize=64)
def model_quality(choice: str | None, scale: float | None, planted: float, bits: int, share: float) -> Quality:
    """The story model with every layer protected so; without a choice nothing is, and all is rounded."""
    model = story_model()

    def change(name: str, W: Tensor) -> Tensor:
        stats = model.stats[name]
        none = torch.empty(0, dtype=torch.long)
        chosen = columns(choice, name, W, stats, planted, share) if choice else none
        return protected(W, stats, chosen, scale, planted, bits, share)

    return model.quality(model.changed(change))
