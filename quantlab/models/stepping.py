"""A decoder block that stops at each of its inputs, so that what reads it can change before the block goes on.

    batch 0    q k v   |  o  |  gate up  |  down  |  out
    batch 1    q k v   |  o  |  gate up  |  down  |  out
                       ^ every batch waits here; X'X is summed, the layers behind are quantized, then all go on

One pass both calibrates and advances, and each layer is calibrated on what the quantized layers before it send, those
of its own block too. That is the order that GPTQ's authors call true sequential; running the block anew for every input
takes three passes more. The price is memory: all tokens wait inside the block at once, not one batch after the other.

A block is the code of transformers, which has no place to leave it and come back. So each batch runs in a greenlet, a
piece of a program with a stack of its own, and a hook before the layer switches out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet
from torch import Tensor, nn


class Journey:
    """One batch on its way through a block: `to` a stop, or to the `end`."""

    def __init__(self, run: Callable[[], Tensor], mode: Callable[[], AbstractContextManager[object]]) -> None:
        """run: computes the block's output; begun by the first call of `to` or `end`.

        mode: a context, such as torch.no_grad, that holds while it runs and not while it waits; `run` enters none that
        lasts over a stop, for those are of the thread and would hold for all.
        """
        self._mode, self._way = mode, greenlet(run)
        self._way.stops = True

    def to(self, stop: str) -> Tensor:
        """X at this stop; those before it are passed by."""
        at, X = None, None
        while at != stop:
            at, X = self._on()
            assert not self._way.dead, f"the block ended before it came to {stop}"
        assert isinstance(X, Tensor)
        return X

    def end(self) -> Tensor:
        """The block's output."""
        found = None
        while not self._way.dead:
            found = self._on()
        assert isinstance(found, Tensor)
        return found

    def leave(self) -> None:
        """Give the journey up, if it is on its way."""
        if self._way:
            self._way.throw()

    def _on(self) -> Any:
        with self._mode():
            return self._way.switch()


@contextmanager
def stops(at: Sequence[tuple[str, nn.Module]]) -> Iterator[None]:
    """While this is open, journeys stop before each of these modules; whatever else runs them does not."""
    hooks = [module.register_forward_pre_hook(partial(_stop, name)) for name, module in at]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _stop(name: str, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    way = getcurrent()
    if not getattr(way, "stops", False):
        return args
    known = set(module._forward_pre_hooks)
    way.parent.switch((name, args[0]))
    for key, hook in list(module._forward_pre_hooks.items()):
        if key not in known:  # it came while we waited: too late for torch, which goes by the list it had before
            changed = hook(module, args)
            args = args if changed is None else changed if isinstance(changed, tuple) else (changed,)
    return args
