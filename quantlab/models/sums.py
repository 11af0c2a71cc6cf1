"""What LayerStats is made of, added up batch by batch.

Sums are float32, batch after batch; tests/unit/test_calibration.py bounds what is lost against float64. X'X is
symmetric, so only the panels on and above its diagonal are computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantlab.core import LayerStats


class Sums:
    """X'X, mean and largest |x| of an input; with `paired` X0'X too, X0 being the original model's."""

    def __init__(
        self, k: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32, paired: bool = False
    ) -> None:
        self.n_tokens = 0
        self.H = torch.zeros(k, k, dtype=dtype, device=device)
        self.C = torch.zeros(k, k, dtype=dtype, device=device) if paired else None
        self.abs_sum = torch.zeros(k, dtype=torch.float64, device=device)
        self.absmax = torch.zeros(k, dtype=torch.float32, device=device)

    def add(self, X: Tensor, X0: Tensor | None = None) -> None:
        """X [t, k], more inputs of the layer; X0 [t, k], the original model's for the same tokens."""
        self.n_tokens += len(X)
        size = X.abs()
        self.abs_sum += size.sum(0)
        torch.maximum(self.absmax, size.amax(0), out=self.absmax)
        X = X.to(self.H.dtype)
        quarter = -(-X.shape[1] // 4)
        for lo in range(0, X.shape[1], quarter):  # symmetric: on and above the diagonal only
            hi = lo + quarter
            self.H[:hi, lo:hi].addmm_(X[:, :hi].T, X[:, lo:hi])
        if self.C is not None:
            assert X0 is not None
            self.C.addmm_(X0.to(X).T, X)

    def stats(self) -> LayerStats:
        """The statistics so far."""
        H = self.H.triu()
        H += self.H.triu(1).T
        return LayerStats(self.n_tokens, H, (self.abs_sum / self.n_tokens).float(), self.absmax, self.C)
