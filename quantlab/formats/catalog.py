"""Every format by its name: the grid, the packing, and the library it is checked against.

Each file of this package ends with its `BUILDERS`: name -> a function that builds the format, whose keyword arguments
are the format's options. A new format is one file there and one line here.

>>> import torch
>>> quantize_tensor(torch.randn(8, 256), "awq_int4_g128").bits_per_weight
4.15625
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor

from quantlab.core import Format, QuantizedTensor
from quantlab.errors import unknown
from quantlab.formats import (
    awq_pack,
    fp8,
    gguf_iq4,
    gguf_k_lines,
    gguf_k_scales,
    gguf_legacy,
    gptq_pack,
    llm_int8,
    mx,
    nf4,
    pack_quantized,
)

BUILDERS: dict[str, Callable[..., Format]] = {
    **pack_quantized.BUILDERS,
    **awq_pack.BUILDERS,
    **gptq_pack.BUILDERS,
    **nf4.BUILDERS,
    **llm_int8.BUILDERS,
    **mx.BUILDERS,
    **fp8.BUILDERS,
    **gguf_legacy.BUILDERS,
    **gguf_k_lines.BUILDERS,
    **gguf_k_scales.BUILDERS,
    **gguf_iq4.BUILDERS,
}
FORMATS: dict[str, Format] = {name: build() for name, build in BUILDERS.items()}


def options(name: str) -> tuple[str, ...]:
    """The options that a format takes."""
    return tuple(inspect.signature(BUILDERS[name]).parameters)


def get(name: str, **chosen: object) -> Format:
    """The format of this name, with some of its options chosen.

    Raises ValueError for an unknown name (with the nearest one) or an unknown option (with those there are).
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    if not chosen:
        return FORMATS[name]
    known = options(name)
    for option in chosen:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; it takes {', '.join(known) or 'none'}")
    return BUILDERS[name](**chosen)


def quantize_tensor(W: Tensor, fmt: str, *, importance: Tensor | None = None, **chosen: object) -> QuantizedTensor:
    """Round a weight matrix W [n, k] to the nearest levels of a format.

    `importance` [k] weighs the errors of the columns (K-quants and their kin); the other options are the format's own,
    as in `quantize_tensor(W, "nf4", block=128)`. Raises ValueError for an unknown name or option, weights that are not
    finite, or rows that do not divide into groups.
    """
    return get(fmt, **chosen).quantize(W, importance)
