"""The explorers of lesson 2, driven to every extreme, back and out of order; and what they say is what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from explorer_laws import ExplorerLaws, Make
from torch import Tensor

from quantlab.formats.catalog import FORMATS, get
from quantlab.formats.codebook import NF4_LEVELS
from quantlab.lesson.lesson2.own_matrix import layer_weights
from quantlab.lesson.lesson2.salience import PLANTED, columns, protected
from quantlab.lesson.lesson2.story import relative_error, rounded, story_model
from quantlab.widgets import levels_explorer, salience_explorer, weight_explorer
from quantlab.widgets.explorer import Explorer
from quantlab.widgets.levels_explorer import KINDS, levels_result, normal_table
from quantlab.widgets.salience_explorer import KEEP, LAYER, NOTHING, SCALES
from quantlab.widgets.weight_explorer import CHOICE, OUTLIER, weight_result


@pytest.fixture(name="W", scope="module")
def weights() -> Tensor:
    return layer_weights("model.layers.1.self_attn.k_proj")


MAKERS: dict[str, Callable[[Tensor], Explorer[Any]]] = {
    "levels": levels_explorer,
    "weight": weight_explorer,
    "salience": lambda _: salience_explorer(),
}


@pytest.mark.parametrize("name", MAKERS)
class TestEveryExplorer(ExplorerLaws):
    @pytest.fixture
    def make(self, name: str, W: Tensor) -> Make:
        return lambda: MAKERS[name](W)


# ------------------------------------------------------------------------------------------- levels
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(("kind", "symmetric"), [("symmetric", True), ("with a zero point", False)])
def test_even_levels_are_those_of_the_lesson(W: Tensor, bits: int, kind: str, symmetric: bool) -> None:
    result, W_hat = levels_result(W, bits, 64, kind), rounded(W, bits, 64, symmetric)
    assert result.rounded.error == pytest.approx(relative_error(W, W_hat), rel=1e-5)
    assert torch.equal(result.rounded.patch_hat, W_hat[:32, :128])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_levels_are_drawn_where_they_are(W: Tensor, bits: int) -> None:
    """Symmetric levels as shares of the group's largest weight; float16 scales move them by less than 1 in 1,000."""
    result = levels_result(W, bits, 128, "symmetric").rounded
    shares = (result.patch_hat / W[:32, :128].abs().amax(1, keepdim=True)).flatten()
    nearest = (shares[:, None] - torch.tensor(result.levels)).abs().amin(1)
    assert float(nearest.max()) < 1e-3


def test_normal_quantiles_at_4_bits_are_nf4(W: Tensor) -> None:
    torch.testing.assert_close(normal_table(4), NF4_LEVELS, atol=1e-6, rtol=0)
    ours = levels_result(W, 4, 64, "normal quantiles").rounded
    theirs = get("nf4", block=64).quantize(W).dequantize()
    assert ours.error == pytest.approx(float((theirs - W).norm() / W.norm()), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_are_counted(W: Tensor, kind: str) -> None:
    result = levels_result(W, 3, 32, kind)
    assert sum(result.rounded.used) == pytest.approx(1)
    assert sum(result.rounded.spread) == pytest.approx(1)
    assert len(result.rounded.levels) == len(result.rounded.used) == 8


def test_a_zero_matrix_is_drawn() -> None:
    explorer = levels_explorer(torch.zeros(32, 128), group=128)
    for kind in KINDS:
        assert explorer.move("kind", kind).rounded.error == 0
        explorer.static()


# ------------------------------------------------------------------------------------------- one weight
@pytest.mark.parametrize("fmt", CHOICE)
def test_the_weight_is_where_the_format_puts_it(W: Tensor, fmt: str) -> None:
    row = W[:1, :256]
    for column in (0, 3, 31):
        result = weight_result(row, fmt, column, 4)
        grown = row.clone()
        grown[0, OUTLIER] *= 4
        Q = FORMATS[fmt].quantize(grown)
        assert result.snapped.value == Q.dequantize()[0, column]
        assert result.snapped.value in [pytest.approx(level, abs=1e-9) for level in result.snapped.levels]
        assert Q.to_bytes()[result.at] == result.octet
        assert result.nbytes == Q.nbytes
        assert len(result.snapped.levels) <= 2**result.bits


def test_an_outlier_makes_its_neighbours_worse(W: Tensor) -> None:
    errors = [weight_result(W[:1, :256], "int4_g32", 3, times).rms_error for times in (1, 8, 32)]
    assert errors[0] < errors[1] < errors[2]


def test_a_row_that_is_too_short() -> None:
    with pytest.raises(ValueError, match="a row of 64 weights is too short"):
        weight_explorer(torch.randn(4, 64))


# ------------------------------------------------------------------------------------------- salience
def test_planting_changes_nothing_before_rounding_and_scaling_back_undoes_it() -> None:
    model = story_model()
    W, stats = model.layers[LAYER], model.stats[LAYER]
    chosen = columns("activations", LAYER, W, stats, PLANTED)
    undone = protected(W, stats, chosen, PLANTED, PLANTED)
    torch.testing.assert_close(undone, rounded(W, 3, symmetric=False), atol=1e-6, rtol=1e-4)


def test_activations_find_the_planted_outliers_and_weights_do_not() -> None:
    model = story_model()
    W, stats = model.layers[LAYER], model.stats[LAYER]
    found = {choice: set(columns(choice, LAYER, W, stats, PLANTED).tolist()) for choice in ("activations", "weights")}
    assert found["activations"] == set(columns("activations", LAYER, W, stats).tolist())
    assert not found["activations"] & found["weights"]
    with pytest.raises(ValueError, match="did you mean 'chance'"):
        columns("chanse", LAYER, W, stats)


def test_with_outliers_the_right_choice_repairs_most_of_the_damage() -> None:
    explorer = salience_explorer(inputs="with outliers x 20")
    bare = explorer.result.columns.error
    explorer.move("way", KEEP)
    kept = {choice: explorer.move("choice", choice).columns.error for choice in ("weights", "chance", "activations")}
    assert bare == explorer.result.columns.unprotected
    assert kept["activations"] < 0.6 * bare
    assert min(kept["weights"], kept["chance"]) > 0.9 * bare
    assert explorer.move("way", NOTHING).columns.error == bare
    assert all(f"{scale:g}" in way for way, scale in SCALES.items())
