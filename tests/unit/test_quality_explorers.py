"""The explorers of lesson 4, driven to every extreme, back and out of order; and what they say is what was measured."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from explorer_laws import ExplorerLaws, Make

from quantlab.evaluate.front import Point
from quantlab.evaluate.report import Row
from quantlab.evaluate.statistics import LEVEL, chance, clustered_stderr
from quantlab.lesson.lesson4.measured import STORIES, of_stories
from quantlab.plan.roofline import decode
from quantlab.plots.front import Front, front_picture
from quantlab.widgets import front_explorer, noise_explorer, roofline_explorer
from quantlab.widgets.explorer import Explorer
from quantlab.widgets.front_explorer import ANY
from quantlab.widgets.noise_explorer import COUNTS, PAIRS
from quantlab.widgets.roofline_explorer import BATCHES, CARDS, CONTEXT, FORMATS, MODEL


def measured_rows() -> list[Row]:
    """Made-up figures of three files, the third beaten by the second in everything."""
    figures = (
        ("f16", 22.0e6, 1e-6, 100.0),
        ("q8_0", 12.0e6, 5e-4, 180.0),
        ("slow", 13.0e6, 6e-3, 90.0),
        ("q4_0", 7.0e6, 0.04, 250.0),
    )
    return [
        Row(name, name, "rtn", "llama.cpp", nbytes=int(size), kl_mean=kl, kl_stderr=kl / 20, decode_tps=speed,
            decode_range=(0.95 * speed, 1.05 * speed), decode_predicted=2 * speed)
        for name, size, kl, speed in figures
    ]  # fmt: skip


MAKERS: dict[str, Callable[[], Explorer[Any]]] = {
    "noise": noise_explorer, "roofline": roofline_explorer, "front": lambda: front_explorer(measured_rows()),
}  # fmt: skip


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestEveryExplorer(ExplorerLaws):
    """The laws of tests/explorer_laws.py."""

    @pytest.fixture
    def make(self, request: pytest.FixtureRequest) -> Make:
        maker: Make = request.param
        return maker


class TestNoise:
    def test_the_figures_are_those_of_the_first_stories(self) -> None:
        explorer = noise_explorer()
        explorer.move("measure", "KL divergence")
        noise = explorer.move("stories", 6).noise
        a, b = (of_stories(fmt) for fmt in PAIRS[explorer.values["pair"]])
        first = a.cluster < 6
        change = (a.kl - b.kl)[first]
        assert noise.means[noise.at] == pytest.approx(change.mean().item())
        assert noise.stderrs[noise.at] == pytest.approx(clustered_stderr(change, a.cluster[first]))
        assert noise.chances[noise.at] == chance(a.kl[first], b.kl[first], a.cluster[first])

    def test_with_fewer_than_six_stories_nothing_is_ever_told(self) -> None:
        explorer = noise_explorer()
        for pair in PAIRS:
            explorer.move("pair", pair)
            for measure in ("perplexity", "KL divergence", "same next word"):
                explorer.move("measure", measure)
                for count in (2, 3, 4, 5):
                    result = explorer.move("stories", count)
                    assert not result.noise.told
                    assert "may not say" in result.words()

    def test_perplexity_and_kl_divergence_disagree_on_nf4_as_the_lesson_says(self) -> None:
        explorer = noise_explorer("NF4 and int4 in groups of 32", "perplexity", STORIES)
        by_perplexity = explorer.result.noise
        by_kl = explorer.move("measure", "KL divergence").noise
        assert by_perplexity.told
        assert by_kl.told
        assert by_perplexity.means[-1] > 0 > by_kl.means[-1]

    def test_the_word_better_names_the_right_one(self) -> None:
        explorer = noise_explorer("int8 and int4", "same next word", STORIES)
        assert "int8 ahead" in explorer.result.words()
        assert "int8 ahead" in explorer.move("measure", "KL divergence").words()
        assert COUNTS[-1] == STORIES
        assert LEVEL == 0.05


class TestRoofline:
    def test_it_is_the_planners_own_bound(self) -> None:
        explorer, dice = roofline_explorer(), random.Random(1)
        for _ in range(10):
            card, fmt, batch = dice.choice(CARDS), dice.choice(FORMATS), dice.choice(BATCHES)
            for name, value in (("card", card), ("fmt", fmt), ("batch", batch)):
                explorer.move(name, value)
            roofs = explorer.result.roofs
            assert roofs.small_steps[roofs.at] == decode(MODEL, fmt, card, batch, CONTEXT)

    def test_what_the_lesson_says_of_fp8(self) -> None:
        ada, ampere = (roofline_explorer(card, "fp8_e4m3", 512).result.roofs for card in ("rtx-4090", "a100-80"))
        assert ada.small_steps[-1].multiply_s < 0.6 * ada.large_steps[-1].multiply_s
        assert ampere.small_steps[-1].multiply_s == ampere.large_steps[-1].multiply_s


class TestFront:
    def test_budgets_choose_and_refuse(self) -> None:
        explorer = front_explorer(measured_rows())
        assert explorer.result.front.chosen == "f16"
        assert explorer.result.front.front == ("q4_0", "q8_0", "f16")
        assert explorer.move("max_mb", 12.0 if 12.0 in explorer.controls[0].options else 12.1).front.chosen == "q8_0"
        assert explorer.move("min_speed", 250.0).front.chosen == "q4_0"
        explorer.reset()
        explorer.move("max_kl", explorer.controls[1].options[-1])
        nothing = explorer.move("min_speed", 250.0)
        assert nothing.front.chosen is None
        assert "nothing fits" in nothing.words().lower()

    def test_every_loss_of_the_slider_keeps_its_own_file(self) -> None:
        explorer = front_explorer(measured_rows())
        for row in measured_rows():
            least = min(kl for kl in explorer.controls[1].options if kl != ANY and kl >= (row.kl_mean or 0))
            assert row.name in explorer.move("max_kl", least).front.within

    def test_without_speed_there_is_a_picture_still(self) -> None:
        points = [replace(Point("a", 1, 0.1)), Point("b", 2, 0.01)]
        picture = front_picture(Front(points, ("a", "b"), ("a", "b"), "b", "b: 2 bytes."))
        assert "Take b" in picture.words or "take b" in picture.words
