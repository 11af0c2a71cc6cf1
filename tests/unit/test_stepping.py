"""A block that stops at its inputs: what goes on, what is given up, and what a stop must not disturb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from quantlab.models.stepping import Journey, stops


def _block() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))


def _journeys(block: nn.Module, batches: list[Tensor]) -> list[Journey]:
    return [Journey(lambda x=x: block(x), torch.no_grad) for x in batches]  # type: ignore[misc]


def test_a_layer_that_changes_at_a_stop_is_used_as_it_is_then() -> None:
    block, batches = _block(), [torch.randn(3, 4), torch.randn(5, 4)]
    journeys = _journeys(block, batches)
    with stops([("first", block[0]), ("last", block[3])]):
        assert all(torch.equal(one.to("first"), x) for one, x in zip(journeys, batches, strict=True))
        with torch.no_grad():
            next(block[0].parameters()).mul_(2)
            expected = [block[:3](x) for x in batches]
        assert all(torch.equal(one.to("last"), x) for one, x in zip(journeys, expected, strict=True))
        with torch.no_grad():
            next(block[3].parameters()).mul_(3)
        found = [one.end() for one in journeys]
    with torch.no_grad():
        assert all(torch.equal(one, block(x)) for one, x in zip(found, batches, strict=True))
    assert not any(module._forward_pre_hooks for module in block.modules())


def test_a_hook_that_comes_at_a_stop_is_heard() -> None:
    block, x = _block(), torch.randn(3, 4)
    (journey,) = _journeys(block, [x])
    with stops([("last", block[3])]):
        X = journey.to("last")
        hook = block[3].register_forward_pre_hook(lambda module, args: (args[0] * 10,))
        found = journey.end()
    hook.remove()
    with torch.no_grad():
        assert torch.equal(found, block[3](X * 10))


def test_whatever_else_runs_the_block_does_not_stop() -> None:
    block, x = _block(), torch.randn(3, 4)
    with stops([("first", block[0])]), torch.no_grad():
        assert block(x).shape == (3, 2)


def test_the_mode_holds_while_it_runs_and_not_while_it_waits() -> None:
    block, log = _block(), []

    @contextmanager
    def mode() -> Iterator[None]:
        log.append("in")
        yield
        log.append("out")

    journey = Journey(lambda: block(torch.ones(1, 4)), mode)
    with stops([("first", block[0])]):
        journey.to("first")
        assert log == ["in", "out"]
        journey.end()
    assert log == ["in", "out"] * 2


@pytest.mark.parametrize("begun", [False, True])
def test_one_that_is_given_up_unwinds(begun: bool) -> None:
    block, left = _block(), []

    def run() -> Tensor:
        try:
            out: Tensor = block(torch.ones(1, 4))
            return out
        finally:
            left.append(True)

    journey = Journey(run, torch.no_grad)
    with stops([("first", block[0])]):
        if begun:
            journey.to("first")
        journey.leave()
    assert left == [True] * begun


def test_an_error_inside_comes_out_where_it_was_awaited() -> None:
    block = _block()
    journey = Journey(lambda: block(torch.ones(1, 5)), torch.no_grad)
    with stops([("last", block[3])]), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        journey.to("last")
    journey.leave()
