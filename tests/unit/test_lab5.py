"""Lab 5's own code: the fit to a sweep, a search predicted, variants beside each other, and the recorded run."""

from __future__ import annotations

import math
from statistics import median

import pytest

from quantlab.lesson import lab, lab5, serving_run
from quantlab.lesson.lab5 import OUTPUT, PROMPT, Row
from quantlab.serve.batching import Policy, StepCost, simulate
from quantlab.serve.batching.request import Request
from quantlab.serve.load import Limits, Load, Report, Search
from quantlab.serve.load.request import Sample

HERE = lab.Setting(lab.Mode.REHEARSAL, "tiny", "tiny", "cpu", 2**34)
COST = StepCost(fixed=0.01, prefill=5e-4, sequence=1e-3)


def closed(texts: int) -> Report:
    """What a sweep finds at a server whose steps cost just COST: all begin together, none joins later."""
    served = simulate([Request(0.0, PROMPT, OUTPUT)] * texts, COST, Policy("chunked")).served
    samples = [Sample(0.0, 0.0, list(one.tokens), one.done, PROMPT, OUTPUT) for one in served]
    return Report.of(samples, Load(texts, concurrency=texts), served[-1].done, "made", None)


def test_the_cost_of_a_step_is_found_again_from_a_sweep() -> None:
    found = lab5.step_cost({n: closed(n) for n in (1, 2, 4, 8)})
    for texts in (1, 4, 16):
        assert found.seconds(0, texts, 0) == pytest.approx(COST.seconds(0, texts), rel=0.05)
    assert found.seconds(PROMPT, 0) == pytest.approx(COST.seconds(PROMPT, 0), rel=0.05)


def test_a_search_is_predicted_load_by_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab5, "engine", lambda: "vllm")
    tried = []
    for rate in (2.0, 50.0):
        load = Load(30, rate=rate, seed=1)
        samples = [Sample(due, due, [due + 1], due + 1, PROMPT, OUTPUT) for due in load.times()]
        tried.append(Report.of(samples, load, 20.0, "made", Limits(ttft_s=0.2, tpot_s=0.05)))
    slow, fast = lab5.expected(Search(tuple(tried), None, None), COST)
    assert (slow.load, fast.load) == (tried[0].load, tried[1].load)
    assert slow.good_share == 1.0
    assert fast.good_share < 0.9
    assert slow.ttft.p95
    assert fast.ttft.p95
    assert fast.ttft.p95 > slow.ttft.p95


def test_one_request_at_a_time_has_one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(8, rate=20.0, process="constant")
    tried = Report.of([Sample(0, 0, [1.0], 1.0)], load, 1.0, "made", Limits(ttft_s=1.0, tpot_s=1.0))
    waits = {}
    for engine in ("vllm", "llama.cpp"):
        monkeypatch.setattr(lab5, "engine", lambda engine=engine: engine)
        waits[engine] = lab5.expected(Search((tried,), None, None), COST)[0].ttft.p95
    assert waits["llama.cpp"] > 3 * waits["vllm"]  # type: ignore[operator]


def test_a_plan_of_this_machine_is_a_bound() -> None:
    found = lab5.planned(HERE)
    assert found.at_once == max(lab5.AT_ONCE)
    assert math.isfinite(found.output_tokens_per_s)
    assert found.output_tokens_per_s > 0


def test_prompts_are_as_long_as_they_say_and_begin_alike_only_where_asked() -> None:
    kinds = {kind.name: kind for kind in lab5.KINDS}
    apart = lab5.prompts(HERE, 3, kinds["long, nothing shared"].tokens)
    alike = lab5.prompts(HERE, 3, kinds["long, one beginning"].tokens, kinds["long, one beginning"].shared)
    assert len({text[:20] for text in apart}) == 3
    assert len({text[:200] for text in alike}) == 1
    assert len(set(alike)) == 3


def test_a_table_of_variants_leaves_out_what_did_not_run_and_says_why() -> None:
    one = Row("stories", 10.0, 0.1, 0.02, 0.0, None, ("a", "b"))
    other = Row("stories", 20.0, 0.1, 0.01, 0.5, 0.25, ("a", "c"))
    found: lab5.Tried = {"as it is": [one], "guesses": [other], "FP8": "no AVX-512"}
    said = str(lab5.table(found, "made"))
    assert "FP8" not in said
    assert "25%" in said
    assert "50%" in said  # of the answers are the same, and of the prompt came from the cache
    assert other.same(one) == 0.5
    assert lab5.reasons(found) == "FP8: no AVX-512"


class TestRecorded:
    def test_every_variant_has_rows_of_every_kind_or_a_reason(self) -> None:
        found = serving_run.variants()
        assert list(found) == [one.name for one in lab5.variants()]
        for rows in found.values():
            if not isinstance(rows, str):
                assert [row.kind for row in rows] == [kind.name for kind in lab5.KINDS]
                assert all(row.tokens_per_s > 0 and row.ttft_s > 0 for row in rows)

    def test_says_where_and_when(self) -> None:
        where = serving_run.kept()["where"]
        assert where["commit"]
        assert serving_run.provenance().startswith("RECORDED on 20")
        assert f"vllm {where['versions']['vllm']}" in serving_run.provenance()

    def test_guesses_that_are_checked_change_no_answer(self) -> None:
        found = serving_run.variants()
        plain = {row.kind: row for row in found["as it is"] if isinstance(row, Row)}
        for name in ("guesses from the text", "guesses by a small model"):
            rows = [row for row in found[name] if isinstance(row, Row)]
            assert median(row.same(plain[row.kind]) for row in rows) == 1.0
            assert all(0 < (row.kept or 0) < 1 for row in rows)

    def test_the_prefix_cache_finds_whole_blocks_of_what_is_shared(self) -> None:
        rows = {row.kind: row for row in serving_run.variants()["as it is"] if isinstance(row, Row)}
        assert rows["long, one beginning"].prefix_hits > 0.5
        assert rows["stories"].prefix_hits < 0.1
        off = {row.kind: row for row in serving_run.variants()["without prefix cache"] if isinstance(row, Row)}
        assert off["long, one beginning"].prefix_hits == 0
