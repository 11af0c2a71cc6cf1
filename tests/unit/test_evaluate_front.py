"""Speed of GGUF files, the front, and a choice under a budget: measured for real, judged by definition."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate.front import Budget, Point, dominated, front, recommend
from quantlab.evaluate.report import Row, Runs
from quantlab.evaluate.rows_speed import Timed, choose_from
from quantlab.evaluate.speed import REPEATS, Speed, bytes_read, measure_speed

ALWAYS, NEVER = (lambda a, b: True), (lambda a, b: False)
SMALL = Point("small", 10, 0.30, (90, 100, 110))
MIDDLE = Point("middle", 20, 0.10, (60, 70, 80))
LARGE = Point("large", 40, 0.01, (30, 35, 40))
POOR = Point("poor", 30, 0.20, (50, 55, 59))  # larger, slower and worse than the middle


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import quantlab
    from quantlab.checkpoints.gguf import write_gguf

    folder = quantlab.load("tiny").source.folder
    return write_gguf(folder, tmp_path_factory.mktemp("speed") / "tiny.gguf", "bf16")


class TestFront:
    def test_only_what_is_worse_in_everything_is_left_out(self) -> None:
        for points in permutations([SMALL, MIDDLE, LARGE, POOR]):
            assert front(points, ALWAYS) == [SMALL, MIDDLE, LARGE]

    def test_a_difference_within_the_noise_is_none(self) -> None:
        better = Point("better", 20, 0.09, (60, 70, 80))
        assert dominated(MIDDLE, better, ALWAYS)
        assert not dominated(MIDDLE, better, NEVER)  # chance would part them as far
        assert front([MIDDLE, better], NEVER) == [MIDDLE, better]

    def test_speeds_whose_spreads_touch_are_the_same(self) -> None:
        faster = Point("faster", 20, 0.10, (79, 85, 90))
        assert not dominated(MIDDLE, faster, ALWAYS)
        assert dominated(MIDDLE, Point("faster", 20, 0.10, (81, 85, 90)), ALWAYS)

    def test_a_point_without_a_speed_is_judged_by_the_rest(self) -> None:
        assert dominated(Point("a", 2, 0.2), Point("b", 1, 0.1), ALWAYS)

    def test_nothing_dominates_itself(self) -> None:
        assert not any(dominated(point, point, ALWAYS) for point in (SMALL, MIDDLE, LARGE))


class TestRecommend:
    @pytest.mark.parametrize(
        ("budget", "name"),
        [
            (Budget(), "large"),
            (Budget(max_bytes=25), "middle"),
            (Budget(min_speed=60), "middle"),
            (Budget(min_speed=90), "small"),
            (Budget(max_bytes=40, max_kl=0.05), "large"),
        ],
    )
    def test_the_least_loss_that_fits(self, budget: Budget, name: str) -> None:
        assert recommend([SMALL, MIDDLE, LARGE, POOR], budget, ALWAYS).name == name

    def test_of_what_cannot_be_told_apart_the_smallest(self) -> None:
        found = recommend([MIDDLE, LARGE], Budget(), NEVER)
        assert found.name == "middle"
        assert "cannot be told from that of large, which has 2.00 times the bytes" in found.why

    def test_it_says_what_the_second_would_cost(self) -> None:
        why = recommend([SMALL, MIDDLE, LARGE], Budget(max_bytes=25), ALWAYS).why
        assert why == (
            "middle: 0.0 MB, KL divergence 0.1, 70 tokens/s. Second is small: 0.0 MB, KL divergence 0.3, 100 tokens/s."
        )

    def test_nothing_fits(self) -> None:
        found = recommend([SMALL, MIDDLE], Budget(max_bytes=5e6, max_kl=0.05, min_speed=80), ALWAYS)
        assert found.name is None
        assert found.why.startswith("Nothing fits. Nearest is small: a KL divergence of 0.3 where 0.05 is allowed")
        assert "no measured speed" in recommend([Point("a", 1, 0.1)], Budget(min_speed=1), ALWAYS).why

    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
    def test_absurd_budgets(self, value: float) -> None:
        for budget in ({"max_bytes": value}, {"max_kl": value}, {"min_speed": value}):
            with pytest.raises(UsageError, match="must be a number above 0"):
                Budget(**budget)

    def test_nothing_was_measured(self) -> None:
        with pytest.raises(UsageError, match="nothing was measured"):
            recommend([], Budget(), ALWAYS)
        assert choose_from([Row("x", "x", "rtn", "quantlab")], {}, Budget()) == ((), "")


class TestSpeed:
    def test_files_take_turns_and_each_has_all_its_runs(self, file: Path) -> None:
        told: list[tuple[int, int]] = []
        found = measure_speed(
            {"a": file, "b": file}, threads=1, prompt=32, generate=4, progress=lambda *at: told.append(at)
        )
        assert told == [(at, 2 * REPEATS) for at in range(1, 2 * REPEATS + 1)]
        for speed in found.values():
            assert len(speed.prefill) == len(speed.decode) == REPEATS
            assert min(*speed.prefill, *speed.decode) > 0
            assert (speed.threads, speed.prompt, speed.generate) == (1, 32, 4)

    def test_the_head_of_a_tied_model_is_read_for_each_token(self, file: Path) -> None:
        assert bytes_read(file) == pytest.approx(file.stat().st_size, rel=0.02)  # all but names and tokenizer

    def test_a_busy_machine_is_told(self) -> None:
        assert Speed((100, 101, 99, 100, 102), (10, 10, 10, 10, 10), 1).unsteady is False
        assert Speed((100, 101, 99, 100, 60), (10, 10, 10, 10, 10), 1).unsteady is True

    def test_a_file_that_cannot_be_run(self, tmp_path: Path) -> None:
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(b"GGUF, it says")
        with pytest.raises(QuantlabError, match=r"speed could not be measured: llama.cpp cannot load .*bad\.gguf"):
            measure_speed({"bad": bad}, threads=1)

    @pytest.mark.parametrize("option", ["threads", "prompt", "generate", "repeats"])
    def test_bad_settings(self, file: Path, option: str) -> None:
        with pytest.raises(UsageError, match=f"{option} must be at least 1, got 0"):
            measure_speed({"a": file}, **{option: 0})
        with pytest.raises(UsageError, match="no file was given"):
            measure_speed({})

    def test_without_a_file_there_is_no_speed(self, tmp_path: Path) -> None:
        rows = [Row("nf4", "nf4", "rtn", "bitsandbytes")]
        assert Timed(tmp_path).measured(rows, print) == (rows, None)


def test_compare_with_speed(run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantlab.evaluate import rows_speed

    quick = measure_speed
    monkeypatch.setattr(
        rows_speed, "measure_speed", lambda files, **given: quick(files, **given | {"prompt": 32, "generate": 4})
    )
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"Once there was a cat number {i}. It sat."}) + "\n" for i in range(6)))
    done = run_cli("compare", "tiny", "--formats", "q8_0,q4_0,nf4", "--speed", "--max-mb", "9", "--text", str(text),
               "--json", str(tmp_path / "out.json"))  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["nf4"]["decode_tps"] is None  # not run by llama.cpp
    for name in ("q8_0", "q4_0"):
        slowest, fastest = rows[name]["decode_range"]
        assert 0 < slowest <= rows[name]["decode_tps"] <= fastest
        assert rows[name]["decode_predicted"] > 0
    assert rows["q4_0"]["decode_predicted"] > rows["q8_0"]["decode_predicted"]
    assert Runs(**found["speed"] | {"unsteady": ()}).repeats == REPEATS
    assert set(found["front"]) <= {"q8_0", "q4_0", "nf4"}
    assert found["advice"].startswith("q4_0: ")  # the only one of less than 9 MB
    assert "Recommended: q4_0" in " ".join(done.out.split())


def test_a_speed_that_was_not_measured_cannot_be_asked_for(run_cli: Any) -> None:
    done = run_cli("compare", "tiny", "--min-speed", "40")
    assert (done.code, "--min-speed needs --speed" in done.err) == (2, True)
