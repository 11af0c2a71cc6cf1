"""Sweeps: the front, the search for the highest rate, and what a measured server is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantlab.errors import QuantlabError, UsageError
from quantlab.plots.load_curve import Curve, load_picture
from quantlab.serve.load import Limits, Load, Report, Sized, front, highest_rate, sweep
from quantlab.serve.load.request import Sample
from quantlab.serve.load.sweep import wait

SERVICE_S = 0.2  # what one request takes the queue below: five a second, no more


def queue(load: Load, limits: Limits | None = None) -> Report:
    """One server, one request at a time, no clock: what it does is known exactly."""
    free, samples = 0.0, []
    for due in load.times():
        began = max(due, free)
        free = began + SERVICE_S
        samples.append(Sample(due, due, [began + SERVICE_S / 2, free], free, 8, 2))
    return Report.of(samples, load, free, "queue", limits or Limits(ttft_s=1.0))


def report(tokens_per_s: float, e2e: float) -> Report:
    """Ten answers, each with this wait."""
    samples = [Sample(0.0, 0.0, [e2e / 2, e2e], e2e, 4, 10) for _ in range(10)]
    return Report.of(samples, Load(10, concurrency=1), 100 / tokens_per_s, "made", None)


class TestFront:
    def test_keeps_what_nothing_beats_in_both(self) -> None:
        slow, worse, fast, same = report(10, 1), report(9, 2), report(20, 3), report(20, 4)
        assert front([fast, worse, slow, same]) == [slow, fast]

    def test_two_that_are_alike_both_stay(self) -> None:
        assert len(front([report(10, 1), report(10, 1)])) == 2

    def test_a_test_without_answers_is_not_on_it(self) -> None:
        failed = Report.of([Sample(0.0, error="timeout")], Load(1, concurrency=1), 1.0, "made", None)
        assert wait(failed) == float("inf")
        assert front([failed]) == []


class TestHighestRate:
    @pytest.mark.parametrize("first", [0.1, 4.0, 5.0, 300.0])
    def test_comes_near_what_the_queue_can_do_from_either_side(self, first: float) -> None:
        found = highest_rate(queue, Load(400, rate=first, process="constant"), tests=16)
        assert found.kept
        assert found.broken
        assert found.rate < found.broken.load.rate  # type: ignore[operator]
        # 400 requests at 5/s x 1.0x: the last waits 80 s x (x - 1); a limit of 1 s lets the rate be a little above
        assert 4.9 < found.rate < 5.2

    def test_without_a_rate_that_is_kept(self) -> None:
        found = highest_rate(lambda load: queue(load, Limits(ttft_s=0.01)), Load(20, rate=8.0), tests=3)
        assert found.rate == 0.0
        assert "not even 2 requests a second" in found.words()  # 8, 4 and 2 were tried

    def test_words_name_both_ends(self) -> None:
        found = highest_rate(queue, Load(200, rate=2.0, process="constant"), tests=4)
        assert f"{found.rate:.3g} requests a second keep the limits" in found.words()
        assert "do not" in found.words()

    def test_a_closed_loop_has_no_rate(self) -> None:
        with pytest.raises(UsageError, match="open loop"):
            highest_rate(queue, Load(10, concurrency=2))
        with pytest.raises(UsageError, match="at least 1 test"):
            highest_rate(queue, Load(10, rate=2.0), tests=0)


class TestSized:
    def test_of_an_open_loop_the_drain_does_not_count(self) -> None:
        found = Sized.of(queue(Load(10, rate=4.0, process="constant")), 1.8)
        assert found.rate == 4.0
        assert found.output_tokens == 2
        assert found.usd_per_million == pytest.approx(1.8 / (4.0 * 2 * 3600) * 1e6)

    def test_a_bad_request_is_not_sold(self) -> None:
        whole = queue(Load(50, rate=10.0, process="constant"))
        assert 0 < whole.good_share < 1
        assert Sized.of(whole, 1.0).rate == pytest.approx(10 * whole.good_share)

    def test_peak_costs(self) -> None:
        even, peaked = Sized(5.0, 100, 2.0), Sized(5.0, 100, 2.0, peak=3.0)
        assert peaked.usd_per_million == pytest.approx(3 * even.usd_per_million)
        assert (even.servers(432_000), even.servers(432_001), peaked.servers(432_000)) == (1, 2, 3)

    def test_nothing_good_has_no_size(self) -> None:
        with pytest.raises(QuantlabError, match="lower the load"):
            Sized.of(queue(Load(5, rate=1.0), Limits(ttft_s=0.001)), 1.0)

    @pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"peak": 0.5}, {"usd_per_hour": -1.0}])
    def test_bad_numbers_are_named(self, wrong: dict[str, float]) -> None:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Sized(**{"rate": 1.0, "output_tokens": 1.0, "usd_per_hour": 1.0, **wrong})


def test_a_measured_curve_is_drawn_as_measured() -> None:
    limits = Limits(ttft_s=1.0, tpot_s=0.3)
    reports = sweep(lambda load: queue(load, limits), [Load(100, rate=rate) for rate in (2.0, 4.0, 8.0)])
    curve = Curve.of(reports, "a queue", "measured here")
    assert curve.most == 2.0 or curve.most == 4.0
    assert curve.rates[curve.at] == 8.0
    words = load_picture(curve).words
    assert "measured" not in words  # said in the title; the words carry the figures
    assert "8 a second" in words


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """Options that ask the trivial server for three tokens each."""
    (tmp_path / "p.txt").write_text("3\n", encoding="utf-8")
    return ["--prompts", str(tmp_path / "p.txt")]


class TestCommand:
    def test_several_concurrencies_are_a_sweep(
        self, trivial_server: str, run_cli, three: list[str], tmp_path: Path
    ) -> None:  # type: ignore[no-untyped-def]
        out = tmp_path / "s.json"
        words = ["--concurrency", "1,4", "--requests", "8", "--usd-per-hour", "2", "--json", str(out)]
        done = run_cli("loadtest", trivial_server, *three, *words)
        assert done.code == 0, done.err
        assert "1 at once" in done.out
        assert "4 at once" in done.out
        assert "for a million tokens" in done.out.replace("\n", " ")
        assert [one["load"]["concurrency"] for one in json.loads(out.read_text(encoding="utf-8"))] == [1, 4]

    def test_search(self, trivial_server: str, run_cli, three: list[str]) -> None:  # type: ignore[no-untyped-def]
        done = run_cli("loadtest", trivial_server, *three, "--search", "--rate", "20", "--requests", "8", "--ttft", "5")
        assert done.code == 0, done.err
        assert "requests a second keep the limits" in done.out.replace("\n", " ")

    def test_the_figures_are_kept_where_nothing_was_good(
        self, trivial_server: str, run_cli, three: list[str], tmp_path: Path
    ) -> None:  # type: ignore[no-untyped-def]
        out = tmp_path / "s.json"
        words = ["--requests", "2", "--ttft", "1e-9", "--usd-per-hour", "2", "--json", str(out)]
        done = run_cli("loadtest", trivial_server, *three, *words)
        assert done.code == 1
        assert "lower the load or the limits" in done.err
        assert json.loads(out.read_text(encoding="utf-8"))["good"] == 0

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--search", "--rate", "1,2", "--ttft", "1"], "just one"),
            (["--search", "--concurrency", "2", "--ttft", "1"], "one --rate"),
            (["--search", "--rate", "1"], "--ttft"),
            (["--concurrency", "1,x"], "whole numbers with commas"),
            (["--rate", "fast"], "numbers with commas"),
            (["--usd-per-hour", "1", "--peak", "0.5"], "peak"),
        ],
    )
    def test_mistakes_are_one_sentence(self, trivial_server: str, run_cli, words: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
        done = run_cli("loadtest", trivial_server, "--requests", "2", *words)
        assert done.code == 2
        assert said in done.err
        assert "Traceback" not in done.err
