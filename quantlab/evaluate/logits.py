"""Where logits come from: any function from token ids to one row of scores a position.

A source is called with sequences of token ids and yields, one sequence at a time, logits [t, vocab] in float32, so that
no more than one sequence's worth is in memory (a vocabulary of 128,000 makes 512 positions 260 MB).
`quantlab.backends.llama_cpp.Logits` is another source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quantlab.evaluate.windows import Windows

CACHE_BYTES = 512 * 2**20


class Source(Protocol):
    """Token ids in, logits out."""

    def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
        """For each sequence of t ids its logits [t, vocab], float32."""
        ...


class TorchLogits:
    """A transformers model, optionally with other weights in some of its layers; the model itself is not changed.

    weights: parameter name -> W_hat, such as {"model.layers.0.mlp.up_proj.weight": ...}.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor] | None = None) -> None:
        self._model, self._weights = model, dict(weights or {})

    def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
        """One sequence at a time: no padding, so no sequence's numbers depend on its neighbours."""
        for tokens in sequences:
            with torch.inference_mode():
                ids = torch.tensor([list(tokens)])
                out: Any = functional_call(self._model, self._weights, (ids,), {"use_cache": False})
                logits: Tensor = out.logits[0].float()
            yield logits


class Baseline:
    """The unquantized model's logits on one text, asked for again for each format.

    Kept in memory when they take at most 512 MiB, computed again otherwise.
    """

    def __init__(self, source: Source, text: Windows, vocab: int, limit: int = CACHE_BYTES) -> None:
        self._source, self.text = source, text
        positions = sum(len(window.tokens) for window in text.windows)
        self._keep = positions * vocab * 4 <= limit
        self._kept: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        """Logits [t, vocab] of each window."""
        if len(self._kept) == len(self.text.windows):
            yield from self._kept
            return
        fresh = self._source([window.tokens for window in self.text.windows])
        self._kept.clear()
        yield from self._remember(fresh)

    def _remember(self, fresh: Iterable[Tensor]) -> Iterator[Tensor]:
        for logits in fresh:
            if self._keep:
                self._kept.append(logits)
            yield logits
