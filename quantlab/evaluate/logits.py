"""Where logits come from: any function from token ids to one row of scores a position.

A source is called with sequences of token ids and yields, one sequence after the other, logits [t, vocab] in float32;
never more of them are in memory than there are cores (a vocabulary of 128,000 makes 512 positions 260 MB).
`quantlab.backends.llama_cpp.Logits` is another source.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from quantlab.backends.workers import Workers
from quantlab.evaluate.windows import Windows

T = TypeVar("T")
U = TypeVar("U")
CACHE_BYTES = 512 * 2**20  # of the baseline's logits
IN_FLIGHT_BYTES = 512 * 2**20  # of sequences that are computed at the same time


class Fork(NamedTuple):
    """Sequences that begin alike: what they share is computed once."""

    start: tuple[int, ...]
    ends: tuple[tuple[int, ...], ...]


class Source(Protocol):
    """Token ids in, logits out."""

    def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
        """For each sequence of t ids its logits [t, vocab], float32."""
        ...

    def forks(self, forks: Sequence[Fork], /) -> Iterator[list[Tensor]]:
        """For each fork, and each of its ends of t ids, the logits [t, vocab] that predict the end."""
        ...


def _limit_this_thread(count: int) -> None:
    """How many cores torch takes for work of this thread."""
    torch.get_num_threads()  # torch copies the common setting when first asked; later it would undo the next line
    torch.set_num_threads(count)


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed here meanwhile takes one core: the sources, made before, keep all of them busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchLogits:
    """A transformers model, optionally with other weights in some of its layers; the model itself is not changed.

    weights: parameter name -> W_hat, such as {"model.layers.0.mlp.up_proj.weight": ...}. Sequences are not padded and
    each is computed by one thread, so that no sequence's numbers depend on its neighbours or on the number of cores.
    cache: makes the KV cache that attention reads (`quantlab.evaluate.kv_cache`); None: keys and values as they are.
    """

    def __init__(
        self, model: nn.Module, weights: Mapping[str, Tensor] | None = None, cache: Callable[[], Any] | None = None
    ) -> None:
        self._model = with_weights(model, weights) if weights else model
        self._cache = cache
        self._threads = torch.get_num_threads()

    def __call__(self, sequences: Sequence[Sequence[int]], /) -> Iterator[Tensor]:
        """Logits [t, vocab] of each sequence, in order."""
        yield from self._each(self._run, sequences, max(map(len, sequences), default=1))

    def forks(self, forks: Sequence[Fork], /) -> Iterator[list[Tensor]]:
        """Logits [t, vocab] that predict each end of each fork, in order."""
        longest = max((len(fork.start) + sum(map(len, fork.ends)) for fork in forks), default=1)
        yield from self._each(self._fork, forks, longest)

    def _each(self, run: Callable[[None, T], U], items: Sequence[T], longest: int) -> Iterator[U]:
        """run(None, item) for each item, a thread each, as many at once as memory allows."""
        table: Any = self._model.get_input_embeddings()  # type: ignore[operator]
        largest = 4 * table.weight.shape[0] * longest
        count = max(1, min(self._threads, IN_FLIGHT_BYTES // largest))
        before, share = torch.get_num_threads(), max(1, self._threads // count)
        workers: Workers[None] = Workers([None] * count, lambda: _limit_this_thread(share))
        torch.set_num_threads(before)  # what other threads will get, which the line above has set as well
        try:
            yield from workers.in_order(run, items)
        finally:
            workers.close()

    def _run(self, _: None, tokens: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            cache = self._cache() if self._cache else None
            out: Any = self._model(torch.tensor([list(tokens)]), past_key_values=cache, use_cache=cache is not None)
            logits: Tensor = out.logits[0].float()
        return logits

    def _fork(self, _: None, fork: Fork) -> list[Tensor]:
        with torch.inference_mode():
            start = self._cache() if self._cache else None
            shared: Any = self._model(torch.tensor([list(fork.start)]), past_key_values=start, use_cache=True)
            first, found = shared.logits[0, -1:].float(), []
            for end in fork.ends:
                cache = copy.deepcopy(shared.past_key_values)  # a model extends the cache that it is given
                out: Any = self._model(torch.tensor([list(end)]), past_key_values=cache, use_cache=True)
                found.append(torch.cat([first, out.logits[0, :-1].float()]))
        return found


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A second model that shares every tensor with the first, except those given: parameter name -> its values."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, dict(shared))
    for name, W in weights.items():
        layer, _, attribute = name.rpartition(".")
        setattr(twin.get_submodule(layer), attribute, nn.Parameter(W, requires_grad=False))
    return twin


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
