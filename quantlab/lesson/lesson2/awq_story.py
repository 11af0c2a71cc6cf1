"""The story model by AWQ and by round to nearest, in one format: the same bytes, other codes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from quantlab.core import Format
from quantlab.evaluate.quality import Quality
from quantlab.formats.catalog import get
from quantlab.lesson.lesson2.story import StoryModel, story_model
from quantlab.methods.awq import awq, awq_scale
from quantlab.methods.rtn import rtn
from quantlab.models.families import blocks

STEPS = 10  # scales that are tried; the paper takes 20


@lru_cache(maxsize=8)
def awq_quality(fmt: str, search: bool) -> tuple[Quality, int]:
    """Quality and bytes of all linear layers in `fmt`, after AWQ's search for scales and ranges or without it."""
    model, form = story_model(), get(fmt)
    found, nbytes = {}, 0
    for block in blocks(model.loaded.model):
        for shared in block.inputs:
            for name, (W_hat, size) in _shared(model, list(shared.layers), form, search).items():
                found[name] = W_hat
                nbytes += size
    return model.quality(found), nbytes


def _shared(model: StoryModel, names: list[str], form: Format, search: bool) -> dict[str, tuple[Tensor, int]]:
    """W_hat and bytes of layers that read the same input, and so share their scale."""
    stats = model.stats[names[0]]
    scale = torch.ones(len(stats.x_absmean))
    if search and not names[0].endswith("o_proj"):  # its input is made by fewer value heads: nowhere to divide
        scale = awq_scale([model.layers[name] for name in names], stats, form, steps=STEPS, duo="no")
    result = {}
    for name in names:
        W = model.layers[name] * scale
        stored = awq(W, stats.scaled(scale), form) if search else rtn(W, None, form)
        result[name] = (stored.dequantize() / scale, stored.nbytes)
    return result
