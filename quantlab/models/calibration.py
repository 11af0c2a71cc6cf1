"""Calibration: run sample texts through a model and keep what its layers' inputs say, block by block.

    tokens -> embedding -> [h] -> block 0 -> [h] -> block 1 -> [h] -> ...          h (T, d): the only thing kept
                                  |  q k v: X'X   o: X'X   gate up: X'X   down: X'X
                                  v
                               LayerStats of this block, handed out before the next block runs

A model's activations do not fit in memory, and are not needed: a method asks for X'X, mean |x| and max |x|, which are
sums over tokens. So the windows advance together, one block at a time; kept are the hidden states at one boundary and
the statistics of one block. Layers that read the same input share one LayerStats.

Two ways to walk:

- one-shot: the inputs are those of the original model (AutoAWQ works like that);
- sequential: block i sees what the quantized blocks before it really send (GPTQ: Frantar et al. 2022, section 4; the
  caller changes the block's weights while it holds its statistics). Each block then runs twice.

Sums are float32, batch after batch; tests/unit/test_calibration.py bounds what is lost against float64. X'X is
symmetric, so only the panels on and above its diagonal are computed. Left out: GPTQ's "true sequential" order inside a
block (four passes instead of two).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from quantlab.core import LayerStats
from quantlab.errors import QuantlabError
from quantlab.models.families import Block, blocks
from quantlab.models.load import LoadedModel
from quantlab.models.samples import Batch, Calibration, batches, windows

Progress = Callable[[str, float], None]  # what is being done, and the share of the whole that is done
PANEL = 256  # columns of X'X computed at once


@dataclass(frozen=True)
class BlockStats:
    """The statistics of one decoder block: full layer name -> LayerStats of its inputs, shared where the input is."""

    block: Block
    stats: dict[str, LayerStats]


def collect(
    loaded: LoadedModel, calibration: Calibration, *, progress: Progress | None = None
) -> dict[str, LayerStats]:
    """Statistics of every linear layer inside the blocks, by full name; all of them in memory at once.

    Meant for small models and for methods under study; `stream` holds one block's at a time.

    >>> from quantlab.models.load import load
    >>> stats = collect(load("tiny"), Calibration())                                             # doctest: +SKIP
    >>> stats["model.layers.0.self_attn.q_proj"].H.shape                                         # doctest: +SKIP
    torch.Size([512, 512])
    """
    found: dict[str, LayerStats] = {}
    for part in stream(loaded, calibration, progress=progress):
        found |= part.stats
    return found


def stream(
    loaded: LoadedModel,
    calibration: Calibration,
    *,
    sequential: bool = False,
    progress: Progress | None = None,
    wanted: Callable[[Block], bool] = lambda block: True,
) -> Iterator[BlockStats]:
    """Yield each block's statistics in turn; with `sequential`, change its weights before asking for the next.

    wanted: for a block that is not, no statistics are collected and nothing is yielded; it only passes its outputs on.
    Raises ValueError for texts that do not fit, too few of them, windows longer than the model can take, and a machine
    without the memory.
    """
    report = progress or (lambda what, share: None)
    found, cut = blocks(loaded.model), batches(windows(loaded, calibration))
    _require_memory(estimated_bytes(found, cut))
    walk = _Walk(loaded.model, found, cut, calibration.compute)
    report("embedding", 0.0)
    walk.start()
    for block in walk.blocks:
        report(block.name, block.index / len(walk.blocks))
        if not wanted(block):
            walk.advance(block)
        elif sequential:
            yield BlockStats(block, walk.statistics(block, advance=False))
            walk.advance(block)
        else:
            yield BlockStats(block, walk.statistics(block, advance=True))
    report("calibrated", 1.0)


def estimated_bytes(found: tuple[Block, ...], cut: list[Batch]) -> int:
    """Memory that calibration takes beside the model: hidden states of all tokens, X'X of a block, one batch at work.

    Float32 throughout. At work: a batch's inputs and outputs of every layer of the block at once, which is more than
    ever live together. Attention scores are left out, since they are not kept whole.
    """
    widest = max(found[0].inputs, key=lambda shared: shared.width).width
    hidden = sum(batch.ids.numel() for batch in cut) * found[0].inputs[0].width
    sums = sum(2 * shared.width**2 for shared in found[0].inputs) + widest**2
    at_work = sum(layer.in_features + layer.out_features for layer in found[0].layers.values())
    return 4 * (hidden + sums + at_work * max(batch.ids.numel() for batch in cut))


def _require_memory(nbytes: int) -> None:
    free = psutil.virtual_memory().available
    if nbytes > free:
        raise QuantlabError(
            f"calibration takes about {nbytes / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; calibrate "
            "on less text, or close other programs"
        )


class Sums:
    """What LayerStats is made of, added up batch by batch."""

    def __init__(self, k: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.n_tokens = 0
        self.H = torch.zeros(k, k, dtype=dtype, device=device)
        self.abs_sum = torch.zeros(k, dtype=torch.float64, device=device)
        self.absmax = torch.zeros(k, dtype=torch.float32, device=device)

    def add(self, X: Tensor) -> None:
        """X [t, k], more inputs of the layer."""
        self.n_tokens += len(X)
        size = X.abs()
        self.abs_sum += size.sum(0, dtype=torch.float64)
        torch.maximum(self.absmax, size.amax(0), out=self.absmax)
        X = X.to(self.H.dtype)
        for lo in range(0, X.shape[1], PANEL):  # symmetric: on and above the diagonal only
            hi = lo + PANEL
            self.H[:hi, lo:hi].addmm_(X[:, :hi].T, X[:, lo:hi])

    def stats(self) -> LayerStats:
        """The statistics so far."""
        H = self.H.triu()
        H += self.H.triu(1).T
        return LayerStats(self.n_tokens, H, (self.abs_sum / self.n_tokens).float(), self.absmax)


class _EnoughError(Exception):
    """Everything that was asked of this block is known: stop computing it."""


class _Walk:
    """All windows at one boundary between blocks."""

    def __init__(self, model: Any, found: tuple[Block, ...], cut: list[Batch], compute: torch.dtype) -> None:
        self._model, self.blocks, self._batches, self._compute = model, found, cut, compute
        self._hidden: list[Tensor] = []  # of each batch (B, T, d)
        self._arguments: list[dict[int, dict[str, Any]]] = []  # of each batch: block -> masks, rotary angles

    def start(self) -> None:
        """Run everything before the first block, and note what the model hands to each block beside hidden states."""
        for batch in self._batches:
            noted: dict[int, dict[str, Any]] = {}
            first: list[Tensor] = []

            def note(index: int, hidden: Tensor, /, _noted: Any = noted, _first: Any = first, **kwargs: Any) -> Tensor:
                _noted[index] = kwargs
                _first.append(hidden)
                return hidden

            with ExitStack() as stack, torch.no_grad():
                for block in self.blocks:
                    stack.enter_context(_forward(block.module, partial(note, block.index)))
                self._model.base_model(input_ids=batch.ids.to(self._model.device), use_cache=False)
            self._hidden.append(first[0].float())
            self._arguments.append(noted)

    def statistics(self, block: Block, advance: bool) -> dict[str, LayerStats]:
        """The statistics of a block's inputs; `advance` replaces the hidden states by its outputs on the way."""
        device = self._hidden[0].device
        sums = {shared.name: Sums(shared.width, device) for shared in block.inputs}
        for at, batch in enumerate(self._batches):
            with ExitStack() as stack:
                for shared in block.inputs:
                    layer = shared.layers[shared.name]
                    enough = not advance and shared is block.inputs[-1]
                    hook = partial(_listen, sums[shared.name], batch.real, enough)
                    stack.callback(layer.register_forward_pre_hook(hook).remove)
                try:
                    out = self._run(block, at)
                except _EnoughError:
                    continue
                if advance:
                    self._hidden[at] = out
        shared_stats = {name: total.stats() for name, total in sums.items()}
        return {layer: shared_stats[shared.name] for shared in block.inputs for layer in shared.layers}

    def advance(self, block: Block) -> None:
        """Replace the hidden states by the block's outputs."""
        for at in range(len(self._batches)):
            self._hidden[at] = self._run(block, at)

    def _run(self, block: Block, at: int) -> Tensor:
        hidden = self._hidden[at]
        low = self._compute is not torch.float32
        with torch.no_grad(), torch.autocast(hidden.device.type, dtype=torch.bfloat16, enabled=low):
            out = block.module(hidden, **self._arguments[at][block.index])
        states: Tensor = out[0] if isinstance(out, tuple) else out
        return states.float()


def _listen(sums: Sums, real: Tensor | None, enough: bool, _: nn.Module, args: tuple[Tensor, ...]) -> None:
    """A hook before a linear layer: add its inputs, padding left out."""
    X = args[0]
    sums.add((X.flatten(0, -2) if real is None else X[real.to(X.device)]).float())
    if enough:
        raise _EnoughError


@contextmanager
def _forward(module: nn.Module, replacement: Callable[..., Tensor]) -> Iterator[None]:
    """Another `forward` for a module while the block runs."""
    had = module.__dict__.get("forward")
    module.forward = replacement
    try:
        yield
    finally:
        del module.forward
        if had is not None:
            module.forward = had


__all__ = ["BlockStats", "Calibration", "Progress", "Sums", "collect", "estimated_bytes", "stream"]
