"""Calibration: run sample texts through a model and keep what its layers' inputs say, block by block.

    tokens -> embedding -> [h] -> block 0 -> [h] -> block 1 -> [h] -> ...          h (T, d): the only thing kept
                                  |  q k v: X'X   o: X'X   gate up: X'X   down: X'X
                                  v
                               LayerStats of this block, handed out before the next block runs

A model's activations do not fit in memory, and are not needed: a method asks for X'X, mean |x| and max |x|, which are
sums over tokens. So the windows advance together, one block at a time; kept are the hidden states at one boundary and
the statistics of one block. Layers that read the same input share one LayerStats.

Three ways to walk:

- one-shot: the inputs are those of the original model (AutoAWQ works like that);
- sequential: a layer sees what the quantized layers before it really send (GPTQ: Frantar et al. 2022, section 4, in its
  authors' "true sequential" order). The block stops at each input; the caller asks for its statistics, changes the
  layers that read it, and asks for the next (quantlab.models.stepping). A method that has to know all inputs of a
  block before it changes the first gets them `ahead`, from a pass of its own.
- paired: sequential, and the original model walks beside it, so that the statistics also say what the input should
  have been (X0'X, GPTAQ: Li et al. 2025). Two walks, and a copy of the original block.
"""

from __future__ import annotations

import copy
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
from quantlab.models.families import Block, Input, blocks
from quantlab.models.load import LoadedModel
from quantlab.models.samples import Batch, Calibration, batches, windows
from quantlab.models.stepping import Journey, stops
from quantlab.models.sums import Sums

Progress = Callable[[str, float], None]  # what is being done, and the share of the whole that is done
Step = Callable[[Input], LayerStats]


@dataclass(frozen=True)
class BlockStats:
    """The statistics of one decoder block: full layer name -> LayerStats of its inputs, shared where the input is.

    stats: of the block as it was when the walk came to it; empty in a sequential walk without `ahead`.
    step: of a sequential walk, lets the block run to one of its inputs and gives the statistics of that, as the layers
    before it are by now; the inputs in their order, each at most once. A scale that was folded into the block since
    the walk came to it has changed X and not X0.
    """

    block: Block
    stats: dict[str, LayerStats]
    step: Step | None = None


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
    paired: bool = False,
    ahead: bool = True,
    progress: Progress | None = None,
    restored: Callable[[Block], bool] = lambda block: False,
) -> Iterator[BlockStats]:
    """Yield each block's statistics in turn; with `sequential`, change its weights before asking for the next.

    paired: of a sequential walk, collect X0'X as well. ahead: of a sequential walk, the statistics of all inputs of a
    block before it changes, too. restored: asked once for each block, when the walk gets there;
    True if it is done already (a sequential walk may put its quantized weights in place just then): no statistics are
    collected and nothing is yielded, it only passes its outputs on.

    Raises ValueError for texts that do not fit, too few of them, windows longer than the model can take, and a machine
    without the memory.
    """
    assert sequential or not paired, "in a one-shot walk X0 = X"
    report = progress or (lambda what, share: None)
    found, cut = blocks(loaded.model), batches(windows(loaded, calibration))
    _require_memory(estimated_bytes(found, cut, sequential, paired))
    walk = _Walk(loaded.model, found, cut, calibration.compute, paired)
    report("embedding", 0.0)
    walk.start()
    for block in walk.blocks:
        report(block.name, block.index / len(walk.blocks))
        walk.reach(block)
        if restored(block):
            walk.advance(block)
        elif sequential:
            stats = walk.statistics(block, advance=False) if ahead else {}
            with walk.steps(block) as step:
                yield BlockStats(block, stats, step)
        else:
            yield BlockStats(block, walk.statistics(block, advance=True))
    report("calibrated", 1.0)


def estimated_bytes(found: tuple[Block, ...], cut: list[Batch], sequential: bool = False, paired: bool = False) -> int:
    """Memory that calibration takes beside the model: hidden states of all tokens, X'X of a block, one batch at work.

    Float32 throughout. At work: a batch's inputs and outputs of every layer of the block at once, which is more than
    ever live together. Attention scores are left out, since they are not kept whole. In a sequential walk all tokens
    wait at an input, with what its block needs beside it. A paired walk has all of it twice, and a block's weights.
    """
    width = found[0].inputs[0].width
    widest = max(shared.width for shared in found[0].inputs)
    tokens = sum(batch.ids.numel() for batch in cut)
    waiting = tokens * (width + (widest + 2 * width if sequential else 0))
    sums = sum(2 * shared.width**2 for shared in found[0].inputs) + widest**2
    at_work = sum(layer.in_features + layer.out_features for layer in found[0].layers.values())
    if paired:
        waiting, sums = 2 * waiting, 2 * sums + sum(p.numel() for p in found[0].module.parameters())
        at_work += sum(shared.width for shared in found[0].inputs)
    return 4 * (waiting + sums + at_work * max(batch.ids.numel() for batch in cut))


def _require_memory(nbytes: int) -> None:
    free = psutil.virtual_memory().available
    if nbytes > free:
        raise QuantlabError(
            f"calibration takes about {nbytes / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free; calibrate "
            "on less text, or close other programs"
        )


class _EnoughError(Exception):
    """Everything that was asked of this block is known: stop computing it."""


class _Walk:
    """All windows at one boundary between blocks; paired, in the original model too."""

    def __init__(
        self, model: Any, found: tuple[Block, ...], cut: list[Batch], compute: torch.dtype, paired: bool
    ) -> None:
        self._model, self.blocks, self._batches, self._compute, self._paired = model, found, cut, compute, paired
        self._hidden: list[Tensor] = []  # of each batch (B, T, d)
        self._hidden0: list[Tensor] = []  # the same in the original model
        self._block0: nn.Module | None = None  # the block that the walk has reached, as it was
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
        self._hidden0 = list(self._hidden) if self._paired else []

    def reach(self, block: Block) -> None:
        """Before anything about this block changes."""
        self._block0 = copy.deepcopy(block.module) if self._paired else None

    def statistics(self, block: Block, *, advance: bool) -> dict[str, LayerStats]:
        """Of the block as it is; `advance` replaces the hidden states by its outputs on the way."""
        sums = {shared.name: self._sums(shared) for shared in block.inputs}
        for at, batch in enumerate(self._batches):
            X0: dict[str, Tensor] = {}
            if self._block0 is not None:

                def keep(name: str, X: Tensor, _batch: Batch = batch, _X0: dict[str, Tensor] = X0) -> None:
                    _X0[name] = _real(X, _batch)

                self._listened(self._block0, self._hidden0[at], block, at, keep, whole=False)

            def add(name: str, X: Tensor, _batch: Batch = batch, _X0: dict[str, Tensor] = X0) -> None:
                sums[name].add(_real(X, _batch), _X0.get(name))

            out = self._listened(block.module, self._hidden[at], block, at, add, whole=advance)
            if advance:
                assert out is not None
                self._hidden[at] = out
        shared_stats = {name: total.stats() for name, total in sums.items()}
        return {layer: shared_stats[shared.name] for shared in block.inputs for layer in shared.layers}

    @contextmanager
    def steps(self, block: Block) -> Iterator[Step]:
        """Statistics of one input after the other; closing it advances, whatever was asked for."""
        here = [(self._hidden, self._journeys(block.module, self._hidden, block))]
        if self._block0 is not None:
            here.append((self._hidden0, self._journeys(self._block0, self._hidden0, block)))

        def step(shared: Input) -> LayerStats:
            sums = self._sums(shared)
            for at, batch in enumerate(self._batches):
                sums.add(*(_real(journeys[at].to(shared.name), batch) for _, journeys in here))
            return sums.stats()

        modules = [block.module] + ([self._block0] if self._block0 is not None else [])
        try:
            with stops([(shared.name, _reader(m, block, shared)) for m in modules for shared in block.inputs]):
                yield step
                for hidden, journeys in here:
                    for at, journey in enumerate(journeys):
                        hidden[at] = journey.end()
        finally:
            for _, journeys in here:
                for journey in journeys:
                    journey.leave()

    def advance(self, block: Block) -> None:
        """Replace the hidden states by the block's outputs."""
        for at in range(len(self._batches)):
            self._hidden[at] = self._run(block.module, self._hidden[at], block, at)
            if self._block0 is not None:
                self._hidden0[at] = self._run(self._block0, self._hidden0[at], block, at)

    def _sums(self, shared: Input) -> Sums:
        return Sums(shared.width, self._hidden[0].device, paired=self._paired)

    def _journeys(self, module: nn.Module, hidden: list[Tensor], block: Block) -> list[Journey]:
        """One for each batch, through a block or its copy."""
        runs = [partial(self._through, module, hidden[at], block, at) for at in range(len(self._batches))]
        return [Journey(run, self._computing) for run in runs]

    def _listened(
        self, module: nn.Module, hidden: Tensor, block: Block, at: int, hear: Callable[[str, Tensor], None], whole: bool
    ) -> Tensor | None:
        """Run a block, or its copy, for one batch, and hear X of its inputs; unless `whole`, only to the last."""
        with ExitStack() as stack:
            for shared in block.inputs:
                hook = partial(_listen, partial(hear, shared.name), not whole and shared is block.inputs[-1])
                stack.callback(_reader(module, block, shared).register_forward_pre_hook(hook).remove)
            try:
                return self._run(module, hidden, block, at)
            except _EnoughError:
                return None

    def _run(self, module: nn.Module, hidden: Tensor, block: Block, at: int) -> Tensor:
        with self._computing():
            return self._through(module, hidden, block, at)

    def _through(self, module: nn.Module, hidden: Tensor, block: Block, at: int) -> Tensor:
        out = module(hidden, **self._arguments[at][block.index])
        states: Tensor = out[0] if isinstance(out, tuple) else out
        return states.float()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        low = self._compute is not torch.float32
        with torch.no_grad(), torch.autocast(self._hidden[0].device.type, dtype=torch.bfloat16, enabled=low):
            yield


def _reader(module: nn.Module, block: Block, shared: Input) -> nn.Module:
    """The first layer that reads this input, in the block's module or its copy."""
    return module.get_submodule(shared.name.removeprefix(f"{block.name}."))


def _real(X: Tensor, batch: Batch) -> Tensor:
    """X (B, T, k) or [t, k] as a matrix [t, k] of float32, padding left out."""
    return (X.flatten(0, -2) if batch.real is None else X[batch.real.to(X.device)]).float()


def _listen(hear: Callable[[Tensor], None], enough: bool, _: nn.Module, args: tuple[Tensor, ...]) -> None:
    """A hook before a linear layer."""
    hear(args[0])
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
