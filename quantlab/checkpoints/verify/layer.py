"""A quantized layer in memory, taken apart: what the checks of values look at, one layer at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from quantlab.core import Format, Params, Parts
from quantlab.formats import double_quant

MOST_WEIGHTS = 2**28  # of a layer whose codes are looked at: about 3 GB in memory


@dataclass(frozen=True)
class OpenLayer:
    """name: without `.weight`. stored: its tensors as the file has them. parts: what its format knows of them."""

    name: str
    fmt: Format
    shape: tuple[int, int]
    stored: Parts
    parts: Parts

    @cached_property
    def _apart(self) -> tuple[Tensor, Params]:
        return self.fmt.packing.unpack(self.parts, self.shape)

    @property
    def q(self) -> Tensor:
        """The codes, uint8 [n, k]."""
        return self._apart[0]

    @property
    def p(self) -> Params:
        """Scales, zero points, groups."""
        return self._apart[1]

    @cached_property
    def weights(self) -> Tensor:
        """What the layer computes with, float32 [n, k]."""
        return self.fmt.grid.decode(*self._apart)

    @property
    def small_enough(self) -> bool:
        """Whether its codes fit in memory several times over."""
        return self.shape[0] * self.shape[1] <= MOST_WEIGHTS

    @property
    def group(self) -> int | None:
        """Weights that share a scale, neighbours in a row; None where they do not lie so."""
        grid, k = self.fmt.grid, self.shape[1]
        if getattr(grid, "granularity", "channel") != "channel" or getattr(grid, "per_tensor", False):
            return None
        group: int = getattr(grid, "group", None) or getattr(grid, "block", None) or k
        return group if k % group == 0 else None

    def grouped(self, values: Tensor) -> Tensor:
        """values [n, k] -> [n, k/g, g], the weights of each group together."""
        assert self.group is not None
        if "g_idx" in self.p:
            values = values[:, self.p["g_idx"].long().argsort(stable=True)]
        return values.reshape(len(values), -1, self.group)

    @property
    def scale(self) -> Tensor:
        """The scale of each group, float32 [n, k/g]."""
        p = self.p
        scale = double_quant.expand(p) if "absmax8" in p else p["scale"] if "scale" in p else p["absmax"]
        return scale.reshape(self.shape[0], -1)
