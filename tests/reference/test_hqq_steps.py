"""Our half-quadratic steps against those recorded from the hqq package (tests/golden/make_hqq_steps.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hqq_groups import BITS, STEPS, stretched

from quantlab.methods.hqq import move_zero

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "hqq_steps.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("bits", BITS)
def test_every_zero_point_of_every_step_is_theirs(bits: int) -> None:
    """Equal to the last bit where they were recorded; a mean of 64 may be added up in another order elsewhere."""
    w = stretched(bits)
    zero, beta = -w.amin(1, keepdim=True), 10.0
    for step, hexes in enumerate(GOLDEN["zero_after_each_step"][str(bits)]):
        theirs = torch.tensor([float.fromhex(value) for value in hexes])[:, None]
        ours = move_zero(w, zero, 2**bits - 1, beta, 0.7)
        assert (ours - theirs).abs().max() <= 2**-20, step
        zero, beta = theirs, beta * 1.01
    assert step == STEPS - 1
    assert (theirs - -w.amin(1, keepdim=True)).abs().max() > 0.01  # they did move


@pytest.mark.parametrize(("norm", "times"), [(0.9, 1.0), (0.7, 1.5)], ids=["another norm", "beta grows faster"])
def test_other_steps_are_told_apart(norm: float, times: float) -> None:
    w = stretched(4)
    theirs = torch.tensor([float.fromhex(value) for value in GOLDEN["zero_after_each_step"]["4"][0]])[:, None]
    ours = move_zero(w, -w.amin(1, keepdim=True), 15, 10.0 * times, norm)
    assert (ours - theirs).abs().max() > 2**-10
