"""The explorers of lesson 3, driven to every extreme, back and out of order; and what they say is what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from explorer_laws import ExplorerLaws, Make

from quantlab.core import LayerStats
from quantlab.errors import UsageError
from quantlab.formats.catalog import get
from quantlab.lesson.lesson2.story import rounded, story_model
from quantlab.methods.gptq import gptq
from quantlab.plan.support import How, runs_on
from quantlab.plots import inputs_picture, support_picture
from quantlab.plots.super_block import kind_of
from quantlab.widgets import scaling_explorer, super_block_explorer, sweep_explorer
from quantlab.widgets.explorer import Explorer
from quantlab.widgets.scaling_explorer import EXPONENTS, LAYERS, OUTLIERS, search
from quantlab.widgets.super_block_explorer import SEARCHES, block_result, marked
from quantlab.widgets.sweep_explorer import BITS, ORDERS, ROWS, trajectory

LAYER = "model.layers.1.self_attn.k_proj"


def make_sweep() -> Explorer[Any]:
    model = story_model()
    return sweep_explorer(model.layers[LAYER][:32], model.stats[LAYER])


def make_block() -> Explorer[Any]:
    model = story_model()
    return super_block_explorer(model.layers[LAYER], model.stats[LAYER])


MAKERS: dict[str, Callable[[], Explorer[Any]]] = {
    "sweep": make_sweep, "scaling": scaling_explorer, "super-block": make_block,
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
class TestEveryExplorer(ExplorerLaws):
    @pytest.fixture
    def make(self, name: str) -> Make:
        return MAKERS[name]


# ------------------------------------------------------------------------------------------- the sweep
@pytest.mark.parametrize(("order", "act_order"), list(zip(ORDERS, (False, True), strict=True)))
def test_the_sweep_ends_where_gptq_ends(order: str, act_order: bool) -> None:
    model = story_model()
    W, stats = model.layers[LAYER][:32], model.stats[LAYER]
    t = trajectory(W, stats, 3, order, [0, 512])
    W_hat = gptq(W, stats, get("int3_g128"), act_order=act_order).dequantize()
    assert ((t.changes[-1] + W[:ROWS]) - W_hat[:ROWS]).abs().gt(1e-6).float().mean() < 0.002
    torch.testing.assert_close(t.plain[-1] + W[:ROWS], rounded(W, 3)[:ROWS])
    H = stats.H
    for E, error in ((W_hat - W, t.errors[-1]), (rounded(W, 3) - W, t.plain_errors[-1])):
        wrong, whole = ((E @ H) * E).sum(), ((W @ H) * W).sum()
        assert error == pytest.approx(float((wrong / whole).sqrt()), rel=0.01)


def test_nothing_has_happened_at_the_first_stop_and_gptq_wins_at_the_last() -> None:
    explorer = make_sweep()
    for bits in BITS:
        start = explorer.move("bits", bits)
        assert explorer.move("done", 0).swept.errors[0] == 0
        assert not explorer.result.swept.change.any()
        last = explorer.move("done", 512).swept
        assert last.errors[-1] < 0.8 * last.plain_errors[-1]
        assert last.change.norm() > last.plain.norm()  # farther from the original weights, nearer to its outputs
        assert start.bits == bits


# ------------------------------------------------------------------------------------------- the scale
def test_the_first_exponent_is_round_to_nearest() -> None:
    model = story_model()
    W, stats = model.layers[LAYER], model.stats[LAYER]
    errors, loud, quiet = search(W, stats, 3)
    assert errors[0] == pytest.approx(model.output_error(LAYER, rounded(W, 3)), rel=1e-4)
    assert loud[0] + quiet[0] == pytest.approx(1)
    assert len(errors) == len(EXPONENTS) == 21


def test_with_outliers_the_search_gains_most() -> None:
    explorer = scaling_explorer()
    gains = {}
    for layer in LAYERS:
        scaled = explorer.move("layer", layer).scaled
        gains[layer] = 1 - scaled.errors[scaled.best] / scaled.errors[0]
    assert max(gains, key=lambda layer: gains[layer]).endswith(OUTLIERS)
    assert max(gains.values()) > 0.4
    assert min(gains.values()) >= 0


# ------------------------------------------------------------------------------------------- the super-block
@pytest.mark.parametrize("search_name", SEARCHES)
def test_the_marked_bytes_are_those_that_make_the_weight(search_name: str) -> None:
    """Change any other byte and the weight stays; change a marked one and it may move."""
    model = story_model()
    row, importance = model.layers[LAYER][:1, :256], model.stats[LAYER].x_sqmean[:256]
    fmt = get("q4_k")
    for sub, place in ((0, 0), (3, 31), (4, 5), (7, 31)):
        result = block_result(row, importance if search_name == SEARCHES[1] else None, sub, place, search_name)
        octets = torch.tensor(list(result.block.octets), dtype=torch.uint8)[None]
        for at in range(144):
            changed = octets.clone()
            changed[0, at] ^= 0x35  # bits of both nibbles, and of both parts of a packed scale
            q, p = fmt.packing.unpack({"blocks": changed}, (1, 256))
            value = float(fmt.grid.decode(q, p)[0, 32 * sub + place])
            if at not in marked(sub, place):
                assert value == result.block.value, (sub, place, at)
        assert result.block.value == fmt.quantize(
            row, importance if search_name == SEARCHES[1] else None
        ).dequantize()[0, 32 * sub + place]  # fmt: skip
        assert min(abs(level - result.block.value) for level in result.block.levels) < 1e-6


def test_each_byte_has_a_kind() -> None:
    kinds = [kind_of(at) for at in range(144)]
    assert [kinds.count(kind) for kind in range(4)] == [2, 2, 12, 128]


def test_a_row_that_is_too_short() -> None:
    stats = LayerStats(1, torch.eye(64), torch.ones(64), torch.ones(64))
    with pytest.raises(ValueError, match="a row of 64 weights is too short for a super-block of 256"):
        super_block_explorer(torch.randn(4, 64), stats)


# ------------------------------------------------------------------------------------------- the other pictures
def test_the_inputs_in_words() -> None:
    X = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    X[:, 1] = X[:, 0]
    picture = inputs_picture(X.T @ X)
    assert "8 inputs." in picture.words
    assert "the closest pair 1.00" in picture.words


def test_the_support_picture_frames_the_learners_column() -> None:
    rows = runs_on("vLLM")
    picture = support_picture(rows, "Ada", "vLLM")
    assert picture.words.endswith("Your GPU is of the generation Ada.")
    assert "FP8: native on Ada, Hopper, Blackwell, weight only on Turing, Ampere" in picture.words
    frames = [p for p in picture.axes[0].patches if p.get_linewidth() == 3]
    assert [frame.get_x() for frame in frames] == [2.5]
    cells = [t.get_text() for t in picture.axes[0].texts]
    assert cells == [how.value for row in rows.values() for how in row.values()]
    assert not [p for p in support_picture(rows).axes[0].patches if p.get_linewidth() == 3]
    assert "nowhere" in support_picture({"X": {"Ada": How.NO}}).words
    with pytest.raises(UsageError, match="at least one row"):
        support_picture({})
