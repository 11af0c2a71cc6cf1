"""Explorers driven as a learner drives them: to every extreme, back, out of order; by code and through the controls."""

from __future__ import annotations

import base64
import random
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from quantlab.errors import UsageError
from quantlab.lesson.predictions import Prediction
from quantlab.plan.gpus import GPUS
from quantlab.plan.memory import GIB, memory
from quantlab.widgets import Control, ask, memory_explorer
from quantlab.widgets import memory_explorer as _factory
from quantlab.widgets.explorer import Explorer
from quantlab.widgets.memory_explorer import CARDS, MemoryResult, memory_result
from quantlab.widgets.prediction_box import PredictionBox
from quantlab.widgets.view import WIDGET_MIME, View

assert _factory is memory_explorer


def setting(**changes: Any) -> dict[str, Any]:
    return {"model": "llama-3-70b", "fmt": "bf16", "context": 8192, "batch": 1, **changes}


# ------------------------------------------------------------------------------------------- the pure explorer
def test_every_control_at_both_ends_and_everything_between() -> None:
    explorer = memory_explorer()
    for control in explorer.controls:
        for value in (control.options[-1], control.options[0], *control.options):
            result = explorer.move(control.name, value)
            assert explorer.values[control.name] == value
            assert result == memory_result(**explorer.values)
            assert result.plan == memory(**explorer.values)
            assert result.words()
            assert result.formula()


def test_the_result_does_not_depend_on_the_way() -> None:
    rng = random.Random(0)
    explorer = memory_explorer()
    for _ in range(300):
        control = rng.choice(explorer.controls)
        explorer.move(control.name, rng.choice(control.options))
        if rng.random() < 0.05:
            explorer.reset()
        assert explorer.result == memory_result(**explorer.values)
    explorer.reset()
    assert (explorer.values, explorer.ghost) == (setting(), None)
    assert explorer.result == memory_explorer().result


def test_the_ghost_is_the_setting_before_this_control_moved() -> None:
    explorer = memory_explorer()
    first = explorer.result
    assert explorer.ghost is None
    for batch in (2, 4, 8):
        explorer.move("batch", batch)
        assert explorer.ghost == first, "while one control moves, the ghost stays where it began"
    eight = explorer.result
    explorer.move("fmt", "int8")
    assert explorer.ghost == eight
    explorer.move("fmt", "int8")
    assert explorer.ghost == eight, "a move to where it is changes nothing"
    explorer.reset()
    assert explorer.ghost is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bach", 2, "did you mean 'batch'"),
        ("batch", 3, "Batch: 3 is not among 1, 2, 4"),
        ("fmt", "q4km", "Format: 'q4km' is not among bf16"),
    ],
)
def test_a_control_that_is_not_there(name: str, value: Any, words: str) -> None:
    explorer = memory_explorer()
    with pytest.raises(UsageError, match=re.escape(words)):
        explorer.move(name, value)
    assert explorer.values == setting()


def test_a_start_that_no_control_has() -> None:
    with pytest.raises(UsageError, match="Context: 1000 is not among"):
        memory_explorer(context=1000)


def test_at_most_four_controls() -> None:
    assert 1 <= len(memory_explorer().controls) <= 4


# ------------------------------------------------------------------------------------------- what it says
def test_words_and_formula_hold_the_planners_numbers() -> None:
    result = memory_result(**setting(fmt="awq_int4_g128", context=4096, batch=8))
    total, weights = round(result.plan.total_bytes / GIB, 2), round(result.plan.weights_bytes / GIB, 2)
    start = f"llama-3-70b in awq_int4_g128, 8 texts of 4,096 tokens: {total} GiB (weights {weights}, KV cache 10, "
    assert result.words().startswith(start)
    assert "Fits A100 80 GB, H200 SXM, B200 SXM." in result.words()
    assert "80 layers x 8 KV heads x 128 x 2 bytes x 4,096 tokens x batch of 8 = 10.00 GiB" in " ".join(
        result.formula().split()
    )
    assert f"together = {result.plan.total_bytes / GIB:,.2f} GiB" in result.formula()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": 16384}, "was made for at most 8,192 tokens"),
        ({"model": "mistral-7b"}, "keeps only the last 4,096 tokens"),
        ({"model": "llama-3.1-405b"}, "Fits none of these GPUs"),
    ],
)
def test_what_to_watch(changes: dict[str, Any], words: str) -> None:
    assert words in memory_result(**setting(**changes)).words()


def test_the_window_limits_the_formula_too() -> None:
    result = memory_result(**setting(model="mistral-7b", context=131072))
    assert "x 4,096 tokens x batch of 1 = 0.50 GiB" in result.formula()


@pytest.mark.parametrize(
    "corner",
    [
        {},
        {"model": "smollm2-135m", "fmt": "q2_k", "context": 512},
        {"model": "llama-3.1-405b", "context": 131072, "batch": 256},
    ],
)
def test_the_static_picture_says_what_it_shows(corner: dict[str, Any]) -> None:
    explorer = memory_explorer()
    for name, value in corner.items():
        explorer.move(name, value)
    picture = explorer.static()
    assert picture.words.startswith(explorer.result.words())
    assert ("Before: " in picture.words) == bool(corner)
    data, metadata = picture.bundle()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == data["text/plain"] == picture.words
    texts = [t.get_text() for t in picture.axes[0].texts]
    for name in CARDS:
        fits = explorer.result.plan.total_bytes <= GPUS[name].memory_bytes
        mine = next(t for t in texts if t[2:].startswith(f"{GPUS[name].memory_gib:,.0f} GiB:"))
        assert mine.startswith("✓" if fits else "✗")
        assert ("fits" if fits else "short by") in mine


# ------------------------------------------------------------------------------------------- the live view
def shown(view: View) -> tuple[str, str]:
    """(alternative text, words) of what the view shows now; the picture must be a well-formed SVG."""
    page = view.picture.value
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', page)
    assert found, page[:200]
    ElementTree.fromstring(base64.b64decode(found[1]))
    said = re.search(r'<p role="status"[^>]*>(.*)</p>', view.words.value)
    assert said
    return found[2], said[1]


def test_the_view_follows_its_controls() -> None:
    explorer = memory_explorer()
    view = View(explorer)
    assert shown(view) == (explorer.static().words, explorer.static().words)
    for control in explorer.controls:
        for value in (control.options[-1], control.options[0]):
            view.controls[control.name].value = value
            assert explorer.values[control.name] == value
            assert shown(view)[0] == explorer.static().words
    assert "Before:" in shown(view)[0]


def test_reset_brings_back_controls_and_picture() -> None:
    explorer = memory_explorer()
    view = View(explorer)
    first = shown(view)
    for control in explorer.controls:
        view.controls[control.name].value = control.options[-1]
    view.reset.click()
    assert {name: control.value for name, control in view.controls.items()} == explorer.values == setting()
    assert explorer.ghost is None
    assert shown(view) == first
    view.reset.click()
    assert shown(view) == first


def test_the_formula_is_one_key_press_away_and_follows() -> None:
    explorer = memory_explorer()
    view = View(explorer)
    assert view.formula.value == ""
    view.formula_button.value = True
    assert "80 layers x 8 KV heads" in view.formula.value
    view.controls["batch"].value = 16
    assert "batch of 16" in view.formula.value
    view.formula_button.value = False
    assert view.formula.value == ""


def test_two_views_of_one_explorer_do_not_disturb_each_other() -> None:
    explorer = memory_explorer()
    one, two = View(explorer), View(explorer)
    one.controls["batch"].value = 8
    two.controls["fmt"].value = "int8"
    assert explorer.values == setting(batch=8, fmt="int8")


def test_every_control_is_labelled() -> None:
    view = View(memory_explorer())
    assert [control.description for control in view.controls.values()] == ["Model", "Format", "Context", "Batch"]
    assert view.reset.description
    assert view.formula_button.description


def displayed(thing: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    found = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, metadata=None, raw=False: found.append((data, metadata))
    )
    thing._ipython_display_()
    return found


def test_one_output_carries_the_widget_and_what_stands_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = memory_explorer()
    ((data, metadata),) = displayed(explorer, monkeypatch)
    assert set(data) == {WIDGET_MIME, "image/png", "text/plain"}
    assert data["text/plain"] == metadata["image/png"]["alt"] == explorer.result.words()
    assert repr(explorer) == explorer.result.words()


def test_a_new_explorer_is_a_function_and_a_drawing() -> None:
    """The pattern, with another model than memory."""
    made = memory_explorer()
    explorer: Explorer[MemoryResult] = Explorer(
        (Control("batch", "Batch", (1, 2), 2),), lambda batch: memory_result(**setting(batch=batch)), made.draw
    )
    assert explorer.result.plan.batch == 2
    assert explorer.move("batch", 1).plan.batch == 1
    assert "1 text of 8,192" in explorer.static().words


# ------------------------------------------------------------------------------------------- predictions
P = Prediction("test-widget", "How many <GB>?", "GB", low=1)


def test_the_box_locks_what_is_typed() -> None:
    box = ask(P)
    assert isinstance(box, PredictionBox)
    assert "&lt;GB&gt;" in box.box.children[0].value
    box.button.click()
    assert "Not attempted yet" in box.answer.value
    box.number.value = "much"
    box.button.click()
    assert "A prediction is a number, in GB; this is 'much'." in box.answer.value.replace("&#x27;", "'")
    assert P.locked is None
    assert not box.button.disabled
    box.number.value = "40,000"
    box.button.click()
    assert P.locked == 40000
    assert "Your prediction is 40,000 GB." in box.answer.value
    assert box.button.disabled
    assert box.number.disabled


def test_a_locked_prediction_shows_locked() -> None:
    P.lock(7)
    box = ask(P)
    assert box.button.disabled
    assert "It is locked already: 7 GB." in box.answer.value


def test_without_a_kernel_the_question_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    ((data, _),) = displayed(ask(P), monkeypatch)
    assert set(data) == {WIDGET_MIME, "text/plain"}
    assert "How many <GB>? In GB; lock a number" in data["text/plain"]
