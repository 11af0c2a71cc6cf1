"""Predictions lock once, are revealed with or without a lock, and are kept; progress survives damage and rivals."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from quantlab.lesson import progress
from quantlab.lesson.message import Kind, number
from quantlab.lesson.predictions import Prediction, in_words

P = Prediction("test-bits", "How many bits?", "bits", low=1, high=32)


def kept() -> dict[str, Any]:
    return progress.entry("predictions", P.id)


def test_it_locks_once() -> None:
    assert P.locked is None
    first = P.lock(4)
    assert first.kind is Kind.LOCKED
    assert first.sentences == ("Your prediction is 4 bits. Go on: the measurement comes later in the lesson.",)
    second = P.lock(5)
    assert second.kind is Kind.LOCKED
    assert second.sentences == ("It is locked already: 4 bits.",)
    assert P.locked == 4


def test_reveal_shows_both_and_keeps_both() -> None:
    P.lock(4)
    message = P.reveal(5.2)
    assert message.sentences == ("You predicted 4 bits; measured: 5.2 bits. Your prediction was 23% too low.",)
    assert kept()["predicted"] == 4
    assert kept()["measured"] == 5.2
    assert kept()["after_reveal"] is False
    assert {"question", "unit", "locked_at", "revealed_at"} <= set(kept())


def test_reveal_without_a_lock_still_shows_the_measurement() -> None:
    assert P.reveal(5.2).sentences == ("No prediction was locked; measured: 5.2 bits.",)
    assert P.locked is None
    later = P.lock(5)
    assert "had been shown before" in repr(later)
    assert kept()["after_reveal"] is True


@pytest.mark.parametrize("untouched", [..., None])
def test_the_starter_is_not_attempted(untouched: Any) -> None:
    assert P.lock(untouched).kind is Kind.NOT_ATTEMPTED
    assert P.lock().kind is Kind.NOT_ATTEMPTED
    assert kept() == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("four", "A prediction is a number, in bits; this is 'four'."),
        (True, "this is True"),
        (float("nan"), "this is nan"),
        (0.5, "It must be at least 1 bits and at most 32 bits; this is 0.5."),
        (33, "at most 32 bits; this is 33."),
    ],
)
def test_what_cannot_be_locked(value: Any, words: str) -> None:
    message = P.lock(value)
    assert message.kind is Kind.NOTE
    assert words in repr(message)
    assert kept() == {}


@pytest.mark.parametrize(
    ("predicted", "measured", "words"),
    [
        (40, 40, "Exactly right."),
        (40, 40.1, "Very close: it was 0.2% too low."),
        (41, 40, "Very close: it was 2% too high."),
        (60, 40, "Your prediction was 50% too high."),
        (40, 141, "Your prediction was 3.5 times too low."),
        (14100, 141, "Your prediction was 100 times too high."),
        (5, 0, "They are 5 GB apart."),
        (0, 5, "They are 5 GB apart."),
        (-2, 3, "They are 5 GB apart."),
        (-4, -2, "Your prediction was 2 times too high."),
    ],
)
def test_the_error_in_words(predicted: float, measured: float, words: str) -> None:
    assert in_words(predicted, measured, "GB").endswith(words)


def test_numbers_as_a_person_writes_them() -> None:
    assert [number(x) for x in (0, 4, 4.0, 1234567, 4.15625, 0.5, 1e-5, -3.25)] == [
        "0", "4", "4", "1,234,567", "4.156", "0.5", "1e-05", "-3.25",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- progress
def test_where_progress_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QUANTLAB_STATE")
    (tmp_path / "lessons" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "lessons" / "deeper")
    assert progress.location() == tmp_path / ".quantlab" / "progress.json"
    monkeypatch.setenv("QUANTLAB_STATE", str(tmp_path / "elsewhere"))
    assert progress.location() == tmp_path / "elsewhere" / "progress.json"


def test_off_keeps_it_in_the_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(progress, "_session", {})
    monkeypatch.setenv("QUANTLAB_STATE", "off")
    monkeypatch.chdir(tmp_path)
    P.lock(4)
    assert P.locked == 4
    assert "too low" in repr(P.reveal(5))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_does_not_stop_the_lesson(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(progress, "_session", {})
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("QUANTLAB_STATE", str(tmp_path / "file" / "state"))
    message = P.lock(4)
    assert "Kept for this session only: cannot write" in repr(message)
    assert "\n" not in message.sentences[1]
    assert P.locked == 4
    assert "too low" in repr(P.reveal(5))


@pytest.mark.parametrize(
    "damage", ["", "{", "[1, 2]", '{"exercises": [], "predictions": {}}', '{"predictions": {"a": 1}}']
)
def test_a_damaged_file_is_set_aside(damage: str) -> None:
    path = progress.location()
    assert path is not None
    path.write_text(damage)
    assert P.lock(4).kind is Kind.LOCKED
    assert P.locked == 4
    assert path.with_name("progress.damaged.json").read_text() == damage


def test_nothing_half_written(monkeypatch: pytest.MonkeyPatch) -> None:
    P.lock(4)
    path = progress.location()
    assert path is not None
    before = path.read_text()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        P.reveal(5)
    assert path.read_text() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["progress.json", "progress.lock"]


def count(times: int) -> None:
    for _ in range(times):
        progress.update("exercises", "rivals", lambda entry: entry.update(attempts=entry.get("attempts", 0) + 1))


def test_two_notebooks_lose_nothing() -> None:
    rivals = [multiprocessing.get_context("fork").Process(target=count, args=(20,)) for _ in range(3)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join(60)
        assert rival.exitcode == 0
    path = progress.location()
    assert path is not None
    assert json.loads(path.read_text())["exercises"]["rivals"]["attempts"] == 60
