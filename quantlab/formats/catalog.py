"""Every format by its name: the grid, the packing, and the library it is checked against.

>>> import torch
>>> quantize_tensor(torch.randn(4, 256), "int4_g128").bits_per_weight
4.125
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, QuantizedTensor, Reference
from quantlab.errors import unknown
from quantlab.formats.int_affine import BitPlanes, IntAffine
from quantlab.layout import layout

_PLAIN = Reference("compressed-tensors", "0.19.0", Fidelity.NUMERIC, "same codes for the same scale; our own packing")


def _int(name: str, bits: int, group: int | None) -> Format:
    stored = torch.float32 if group is None else torch.float16  # one scale a row is few enough to keep it exact
    grid, packing = IntAffine(bits, group, scale_dtype=stored), BitPlanes(bits, scale_dtype=stored)
    return Format(name, grid, packing, layout(name), _PLAIN)


FORMATS = {
    fmt.name: fmt
    for fmt in (
        _int("int8", 8, None),
        _int("int4_g128", 4, 128),
        _int("int4_g32", 4, 32),
        _int("int3_g128", 3, 128),
        _int("int2_g128", 2, 128),
    )
}


def get(name: str) -> Format:
    """The format of this name; an unknown name raises with the nearest one."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def quantize_tensor(W: Tensor, fmt: str) -> QuantizedTensor:
    """Round a weight matrix W [n, k] to the nearest levels of a format.

    Raises ValueError for an unknown name, weights that are not finite, or rows that do not divide into groups.
    """
    return get(fmt).quantize(W)
