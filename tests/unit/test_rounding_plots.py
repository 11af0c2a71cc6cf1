"""The pictures of lesson 2: what is drawn, and that the words say the same."""

from __future__ import annotations

import pytest
import torch

from quantlab.errors import UsageError
from quantlab.plots import Bar, Columns, Rounded, Snapped, bars, levels_picture, number_lines, salience_picture
from quantlab.plots import snapped_picture as picture_of


def some_rounded(label: str = "4 bits", error: float = 0.1) -> Rounded:
    patch = torch.linspace(-1, 1, 64).reshape(4, 16)
    return Rounded(label, patch, patch.round(), [-1.0, 0.0, 0.5, 1.0], [0.1, 0.5, 0.3, 0.1], [1 / 61] * 61, error, 4.5)


def test_three_heatmaps_share_their_colours() -> None:
    picture = levels_picture(some_rounded(), some_rounded("8 bits", 0.01))
    images = [image for axes in picture.axes for image in axes.images]
    assert len(images) == 3
    assert {image.get_clim() for image in images} == {(-1.0, 1.0)}
    titles = {text.get_text() for axes in picture.axes for text in axes.texts}
    assert titles >= {"weights", "rounded", "error, colours 3 x as strong"}
    assert "error 10.0% of the weights' size, 4.5 bits a weight" in picture.words
    assert picture.words.endswith("Before: 8 bits: error 1.0% of the weights' size, 4.5 bits a weight.")


def test_number_lines_draw_every_value_once() -> None:
    picture = number_lines({"INT2": [-2, -1, 0, 1], "signed zero": [-0.0, 0.0, 4.0, -4.0]})
    axes = picture.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["INT2: 4 values", "signed zero: 3 values"]
    assert picture.words == (
        "INT2 has 4 values, 25% of them within a quarter of the largest; "
        "signed zero has 3 values, 33% of them within a quarter of the largest."
    )


@pytest.mark.parametrize("rows", [{}, {"nothing": []}, {"zero": [0.0]}])
def test_number_lines_need_a_level(rows: dict[str, list[float]]) -> None:
    with pytest.raises(UsageError, match="at least one format"):
        number_lines(rows)


def test_one_weight_and_its_level() -> None:
    now = Snapped("weight 1 in int2", (0.4, -1.0), (-1.0, 0.0, 1.0), 0.4, 0.0)
    picture = picture_of(now, Snapped("weight 1 in int3", (0.4, -1.0), (-1.0, -0.5, 0.0, 0.5), 0.4, 0.5))
    assert "0.4000 is stored as 0.0000" in [t.get_text() for t in picture.axes[0].texts]
    assert "an error of -0.4. Its group holds 2 weights from -1.0000 to 0.4000, on 3 levels." in picture.words
    assert picture.words.endswith("Before: weight 1 in int3, 0.4000 as 0.5000.")


def test_the_protected_columns_stand_out() -> None:
    inputs = torch.tensor([1.0, 9.0, 1.0])
    now = Columns("1% by activations", inputs, torch.ones(3), torch.tensor([1]), 0.1, 0.4)
    picture = salience_picture(now, Columns("nothing", inputs, torch.ones(3), torch.tensor([]).long(), 0.4, 0.4))
    assert "3 columns; the largest input is 2.5 times the mean." in picture.words
    assert "the outputs are 10.0% off; with nothing protected 40.0%. Before: nothing: 40.0%." in picture.words
    assert [line.get_xydata().tolist() for line in picture.axes[0].lines][1] == [[1.0, 9.0]]


def test_bars_say_their_error_bars() -> None:
    picture = bars([Bar("one", 0.5, 0.01, True), Bar("two", 0.25)], "A title", "share of places")
    assert picture.words == "Share of places: one 50.0% ± 1.0%; two 25.0%."
    assert "50.0% ± 1.0%" in [t.get_text() for t in picture.axes[0].texts]
    assert bars([Bar("one", 1234.5)], "A title", "bytes", percent=False).words == "Bytes: one 1.23e+03."
    with pytest.raises(UsageError, match="at least one Bar"):
        bars([], "A title", "nothing")
