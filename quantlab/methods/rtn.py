"""Round to nearest: each weight takes the level beside it, whatever the other weights do.

The simplest method, and the one that every other is measured against. It needs no data.
"""

from __future__ import annotations

from torch import Tensor

from quantlab.core import Format, LayerStats, QuantizedTensor


def rtn(W: Tensor, stats: LayerStats | None, fmt: Format) -> QuantizedTensor:
    """W [n, k] -> its nearest levels in `fmt`; `stats` makes no difference."""
    return fmt.quantize(W)
