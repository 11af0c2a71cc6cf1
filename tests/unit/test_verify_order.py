"""Swapped nibbles and interleaves: found where they are, never where they are not, and "cannot tell" in between.

The rates over whole models, kinds and methods are measured by tools/bench_verify.py; here is one block of each.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from verify_cases import CODES, NIBBLES, Made, change, change_all, make, must_find, swap_nibbles

from quantlab.checkpoints.verify import verify
from quantlab.checkpoints.verify.neighbours import Block, table
from quantlab.checkpoints.verify.orders import SAID, Evidence, Verdict, evidence, orders, reordered, weigh
from quantlab.formats.awq_pack import ORDER
from quantlab.formats.words import IN_ORDER, pack_words, unpack_words


@pytest.fixture(scope="module")
def made(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tiny_folder, tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("case", NIBBLES)
def test_swapped_nibbles_along_rows(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)
    change_all(folder, CODES[case], swap_nibbles)
    found = must_find(folder, "order", "'pair'", "nibbles are swapped")
    assert len([check for check in found.checks if check.passed is False]) == 1  # nothing else is wrong with it


@pytest.mark.parametrize("case", ["gptq", "packed", "nf4"])
def test_one_layer_with_swapped_nibbles(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)
    change(folder, CODES[case], swap_nibbles, layer="model.layers.0.mlp.gate_proj")
    found = must_find(folder, "order", "gate_proj", "'pair'")
    assert "more like this" not in str(found.fault)


def _packed_as(order: tuple[int, ...], twice: bool = False) -> Callable[[Tensor], Tensor]:
    """AWQ's words with the outputs in another order."""

    def do(words: Tensor) -> Tensor:
        codes = unpack_words(words, 4, 8 * words.shape[1], ORDER)
        if twice:
            codes = codes.reshape(len(codes), -1, 8)[..., list(ORDER)].flatten(1)
        return pack_words(codes, 4, order)

    return do


@pytest.mark.parametrize(
    "pack",
    [_packed_as(IN_ORDER), _packed_as(ORDER, twice=True), swap_nibbles],
    ids=["interleave forgotten", "interleave twice", "nibbles swapped"],
)
@pytest.mark.parametrize("parts", [("qweight",), ("qweight", "qzeros")], ids=str)
def test_rows_of_awq_in_another_order(
    made: Made, tmp_path: Path, pack: Callable[[Tensor], Tensor], parts: tuple[str, ...]
) -> None:
    folder = made.copy("awq", tmp_path)
    for part in parts:
        change_all(folder, part, pack)
    must_find(folder, "order", "another order than its scales", "pack the layer again")


@pytest.mark.parametrize("case", ["awq", "gptq-v2-asymmetric", "packed-asymmetric"])
def test_zero_points_in_another_order(made: Made, tmp_path: Path, case: str) -> None:
    folder = made.copy(case, tmp_path)
    if case == "packed-asymmetric":  # packed along rows
        change_all(folder, "weight_zero_point", lambda zeros: swap_nibbles(zeros.T).T)
    else:
        change_all(folder, "qzeros", swap_nibbles)
    must_find(folder, "order", "another order than its zero points", "pair'")


@pytest.mark.parametrize("case", ["packed", "awq"])
@pytest.mark.parametrize("swapped", [False, True])
def test_random_weights_betray_nothing_along_rows(made: Made, tmp_path: Path, case: str, swapped: bool) -> None:
    """And nothing is guessed. Across rows AWQ's scales still know their codes, whatever the weights."""

    def random(name: str, W: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(len(name))
        return torch.randn(W.shape, generator=generator).to(W.dtype)

    folder = make(made.block, tmp_path / case, case, random)
    if swapped:
        change_all(folder, CODES[case], swap_nibbles)
    found = verify(folder)
    order = {check.passed for check in found.checks if check.name == "order"}
    assert order == ({None} if case == "packed" else {not swapped})
    assert found.ok == (case == "packed" or not swapped)


@pytest.mark.parametrize("length", [8, 32, 64, 256])
def test_every_order_is_a_permutation_and_its_inverse_is_there(length: int) -> None:
    known = {name: order.tolist() for name, order in orders(length).items() if not name.startswith("chance")}
    assert len({tuple(order) for order in known.values()}) == len(known)
    for order in known.values():
        assert sorted(order) == list(range(length))
        assert torch.tensor(order).argsort().tolist() in known.values()


def test_reordered() -> None:
    order = torch.tensor([1, 0, 2, 3])
    assert reordered(torch.arange(10), order).tolist() == [1, 0, 2, 3, 5, 4, 6, 7, 8, 9]


def test_verdicts() -> None:
    assert Evidence(400, 99, "pair").verdict is Verdict.RIGHT
    assert Evidence(400, 101, "pair").verdict is Verdict.CANNOT_TELL  # not clearly
    assert Evidence(99, 1, "pair").verdict is Verdict.CANNOT_TELL  # not surely
    assert Evidence(10, 400, "pair").verdict is Verdict.WRONG
    assert Evidence(10, 400, "chance 2").verdict is Verdict.CANNOT_TELL  # chance is as good an order as any
    assert evidence({SAID: 1.0, "pair": 3.0, "awq": 2.0}) == Evidence(1.0, 3.0, "pair")
    assert weigh(lambda order: -3.0 if order.tolist() == list(range(8)) else 0.0).said == 9


@pytest.mark.parametrize("name", ["pair", "awq", "halves"])
def test_a_known_order_is_named(name: str) -> None:
    """Two matrices that share directions; one of them has its columns in the inverse of an order that we know."""
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(6, 512, generator=generator)
    up = (torch.randn(300, 6, generator=generator) @ shared + torch.randn(300, 512, generator=generator)).T
    down = torch.randn(256, 6, generator=generator) @ shared + torch.randn(256, 512, generator=generator)
    block = Block(None, None)
    block.see("up_proj", "up", up, None)
    moved = reordered(down.T, orders()[name].argsort()).T
    block.see("down_proj", "down", moved, 8)
    ((layer, found),) = block.judge()
    assert (layer, found.name, found.verdict) == ("down", name, Verdict.WRONG)


def test_nothing_to_compare_with_is_no_evidence() -> None:
    block = Block(None, None)
    block.see("o_proj", "o", torch.randn(64, 64), 8)
    assert list(block.judge()) == []
    assert table(torch.zeros(16, 4)).cosines.isfinite().all()
