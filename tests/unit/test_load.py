"""The load generator: schedules, times, percentiles, errors of every kind; nothing is lost, and nothing looks faster
than it was. Faults come from tests/load_server.py; tests/reference/test_load_llama_cpp.py has the real server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from quantlab.errors import QuantlabError, UsageError
from quantlab.models.load import LoadedModel
from quantlab.serve.load import Limits, Load, loadtest
from quantlab.serve.load import prompts as asked
from quantlab.serve.load.arrivals import BURST
from quantlab.serve.load.report import Percentiles
from quantlab.serve.load.request import Sample


@pytest.fixture(scope="module")
def url(trivial_server: str) -> str:
    return trivial_server


class TestSchedules:
    def test_poisson_has_the_rate_on_average_and_gaps_like_an_exponential(self) -> None:
        gaps = np.diff(Load(20_000, rate=50.0).times())
        assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
        assert gaps.std() == pytest.approx(1 / 50, rel=0.05)
        assert (gaps > 1 / 50).mean() == pytest.approx(np.exp(-1), abs=0.02)

    def test_the_same_seed_gives_the_same_times(self) -> None:
        assert Load(50, rate=3.0).times() == Load(50, rate=3.0).times() != Load(50, rate=3.0, seed=1).times()

    def test_constant_and_bursts(self) -> None:
        assert np.allclose(np.diff(Load(9, rate=4.0, process="constant").times()), 0.25)
        times = Load(3 * BURST, rate=4.0, process="burst").times()
        assert sorted(set(times)) == [0.0, BURST / 4, 2 * BURST / 4]
        assert [times.count(at) for at in sorted(set(times))] == [BURST] * 3

    @pytest.mark.parametrize(
        "wrong",
        [
            {}, {"rate": 1.0, "concurrency": 1}, {"rate": 0.0}, {"rate": -1.0}, {"concurrency": 0},
            {"rate": 1.0, "process": "tidal"}, {"rate": 1.0, "requests": 0},
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused(self, wrong: dict[str, object]) -> None:
        with pytest.raises(UsageError):
            Load(**{"requests": 1, **wrong})  # type: ignore[arg-type]


class TestTimes:
    def test_each_part_of_an_answer(self, url: str) -> None:
        report = loadtest(url, None, ["4 0.05"], Load(4, concurrency=2))
        assert (report.sent, report.answered, report.errors) == (4, 4, {})
        assert report.output_tokens == 16
        assert report.prompt_tokens == 4
        for sample in report.samples:
            assert sample.ttft == pytest.approx(0.05, abs=0.04)
            assert sample.tpot == pytest.approx(0.05, abs=0.03)
            assert sample.e2e == pytest.approx(0.20, abs=0.08)
            assert sample.text == " a" * 4
        assert report.seconds == pytest.approx(0.4, abs=0.2)
        assert report.tokens_per_s == pytest.approx(16 / report.seconds)

    def test_a_closed_loop_never_has_more_on_their_way(self, url: str) -> None:
        samples = loadtest(url, None, ["2 0.02"], Load(12, concurrency=3)).samples
        for at in (sample.sent for sample in samples):
            assert at is not None
            assert sum(s.sent <= at < s.end for s in samples if s.sent is not None and s.end is not None) <= 3

    def test_an_open_loop_does_not_wait_for_answers(self, url: str) -> None:
        report = loadtest(url, None, ["1 0.4"], Load(10, rate=50.0, process="constant"))
        assert report.late.p99 is not None
        assert report.late.p99 < 0.1
        assert report.seconds < 1.0  # one after the other would take 4 s

    def test_waiting_to_be_sent_counts_as_waiting(self) -> None:
        late = Sample(due=1.0, sent=3.0, pieces=[3.1, 3.2], end=3.2, output_tokens=2)
        assert late.ttft == pytest.approx(2.1)
        assert late.e2e == pytest.approx(2.2)
        assert late.tpot == pytest.approx(0.1)

    def test_percentiles_are_numpys(self) -> None:
        values = [0.1 * at for at in range(11)]
        found = Percentiles.of([*values, None])
        assert (found.p50, found.p90, found.p99) == pytest.approx(tuple(np.percentile(values, (50, 90, 99))))
        assert Percentiles.of([]) == Percentiles()


class TestErrors:
    @pytest.mark.parametrize(
        ("prompt", "kind"),
        [("500", "HTTP 500"), ("cut", "broken off"), ("odd", "not an answer"), ("silent", "timeout")],
    )
    def test_every_fault_is_counted_by_its_kind(self, url: str, prompt: str, kind: str) -> None:
        report = loadtest(url, None, [prompt, "2"], Load(6, concurrency=3), warmup=0, timeout_s=0.5)
        assert report.sent == 6
        assert report.answered == 3
        assert report.errors == {kind: 3}
        assert report.answered + sum(report.errors.values()) == report.sent
        assert report.output_tokens == 6  # of whole answers only

    def test_a_server_that_is_not_there(self) -> None:
        with pytest.raises(QuantlabError, match="no server answers"):
            loadtest("http://127.0.0.1:9/v1", None, ["2"], Load(1, concurrency=1))

    def test_goodput_counts_what_keeps_all_limits(self, url: str) -> None:
        report = loadtest(
            url, None, ["2", "2 0.2", "500"], Load(9, concurrency=3), warmup=0, limits=Limits(ttft_s=0.15)
        )
        assert (report.answered, report.good) == (6, 3)
        assert report.goodput == pytest.approx(3 / report.seconds)
        with pytest.raises(UsageError, match="ttft_s"):
            Limits(ttft_s=0)

    @pytest.mark.parametrize("wrong", [{"prompts": []}, {"max_tokens": 0}, {"warmup": -1}, {"timeout_s": 0}])
    def test_bad_numbers_are_named(self, url: str, wrong: dict[str, object]) -> None:
        arguments = {"prompts": ["1"], "load": Load(1, concurrency=1), **wrong}
        with pytest.raises(UsageError):
            loadtest(url, None, **arguments)  # type: ignore[arg-type]


class TestPrompts:
    @pytest.mark.parametrize(("tokens", "shared"), [(1, 0), (16, 0), (200, 0), (64, 32)])
    def test_made_prompts_have_exactly_so_many_tokens(self, tiny: LoadedModel, tokens: int, shared: int) -> None:
        found = asked.made(tiny.tokenizer, 12, tokens, shared)
        counts = {len(tiny.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in found}
        assert counts == {tokens}
        assert len(set(found)) >= (6 if tokens > 1 else 1)
        if shared:
            begun = {
                tiny.tokenizer.decode(tiny.tokenizer(t, add_special_tokens=False)["input_ids"][:shared]) for t in found
            }
            assert len(begun) == 1

    def test_files(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("one\n\ntwo\n", encoding="utf-8")
        (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n{"text": "two"}\n', encoding="utf-8")
        assert asked.of_file(tmp_path / "a.txt") == asked.of_file(tmp_path / "a.jsonl") == ["one", "two"]
        (tmp_path / "b.jsonl").write_text('{"question": "one"}\n', encoding="utf-8")
        (tmp_path / "c.txt").write_text("\n", encoding="utf-8")
        for name, said in (("b.jsonl", "line 1"), ("c.txt", "empty"), ("d.txt", "cannot read")):
            with pytest.raises(QuantlabError, match=said):
                asked.of_file(tmp_path / name)


class TestCommand:
    def test_table_sentence_and_json(self, url: str, run_cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        prompts = tmp_path / "p.txt"
        prompts.write_text("3\n500\n", encoding="utf-8")
        words = ["loadtest", url, "--concurrency", "2", "--requests", "4", "--prompts", str(prompts), "--ttft", "5"]
        done = run_cli(*words, "--json", str(tmp_path / "r.json"))
        assert done.code == 0
        assert "2 of 4 answered" in done.out
        assert "2 HTTP 500" in done.out
        assert "Good within the limits: 2" in done.out
        found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        assert found["sent"] == found["answered"] + sum(found["errors"].values()) == 4
        assert found["machine"]["date"][:4] >= "2026"

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--rate", "1", "--concurrency", "1"], "one of the two"),
            (["--rate", "0"], "rate"),
            (["--prompts", "x", "--prompt-tokens", "3"], "not both"),
            (["--concurrency", "1", "--prompt-tokens", "3"], "--tokenizer"),
        ],
    )
    def test_mistakes_are_one_sentence(self, url: str, run_cli, words: list[str], said: str) -> None:  # type: ignore[no-untyped-def]
        done = run_cli("loadtest", url, *words)
        assert done.code == 2
        assert said in done.err
        assert "Traceback" not in done.err


def test_in_a_running_event_loop_as_in_a_notebook(url: str) -> None:
    import asyncio

    async def cell() -> int:
        return loadtest(url, None, ["2"], Load(2, concurrency=1)).answered

    began = time.perf_counter()
    assert asyncio.run(cell()) == 2
    assert time.perf_counter() - began < 10
