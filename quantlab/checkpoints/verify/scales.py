"""Scales: each a positive, finite number. One NaN makes every answer of the model NaN, one infinity soon does.

A scale of zero wipes its group out. bitsandbytes stores an absmax of 0 where all weights of a block are 0, and the
absmax of its absmax values may be 0 as well; everywhere else the libraries write something positive. With double
quantization the scales that come out may be below zero beside an outlier (quantlab.formats.double_quant): that is how
the method is, so there only what is stored is looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantlab.checkpoints.verify.layer import OpenLayer
from quantlab.checkpoints.verify.result import Findings

_SCALES = (
    "scales", "weight_scale", "weight_global_scale", "SCB", "weight.absmax", "weight.nested_absmax",
    "weight.nested_offset",
)  # fmt: skip
_MAY_BE_ZERO = ("weight.nested_absmax", "weight.nested_offset")
_E8M0_NAN = 255


def check_scales(layer: OpenLayer, findings: Findings) -> bool:
    """Whether the scales of a layer are usable; says which is not."""
    tensors = {**layer.stored, **layer.parts}
    usable = True
    for part in _SCALES:
        if part not in tensors:
            continue
        values = tensors[part]
        for what, bad in _bad(part, values, layer).items():
            if not bad.any():
                continue
            at = [int(i) for i in bad.nonzero()[0]]
            count = f", and {int(bad.sum()) - 1:,} more" if bad.sum() > 1 else ""
            sentence = (
                f"{layer.name}.{part} holds a scale that is {what} (at {at}{count}): the weights of its group are "
                "lost; quantize the layer again"
            )
            findings.fault("scales", sentence, f"{part} is {what}")
            usable = False
    return usable


def _bad(part: str, values: Tensor, layer: OpenLayer) -> dict[str, Tensor]:
    """What is wrong with some of the scales -> where."""
    if values.dtype == torch.uint8:
        return {"not a number": values == _E8M0_NAN} if part == "weight_scale" else {}
    values = values.float()
    bad = {"not a number": values.isnan(), "infinite": values.isinf(), "negative": values < 0}
    if part not in _MAY_BE_ZERO:
        bad["zero"] = (values == 0) & ~_empty(part, layer)
    return bad


def _empty(part: str, layer: OpenLayer) -> Tensor:
    """Which scales may be zero: those of bitsandbytes whose weights all have the code of zero."""
    nothing = torch.zeros((), dtype=torch.bool)
    if part not in ("SCB", "weight.absmax") or layer.group is None or not layer.small_enough:
        return nothing
    codes = layer.grouped(layer.q)
    zero = 128 if part == "SCB" else _code_of_zero(layer)
    return (codes == zero).all(-1).reshape(layer.stored[part].shape)


def _code_of_zero(layer: OpenLayer) -> int:
    return int(layer.fmt.grid.encode(torch.zeros(1, 1), {"absmax": torch.ones(1)}))
