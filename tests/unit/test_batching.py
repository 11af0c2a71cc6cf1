"""The simulator of batching: by hand where a hand can do it, and by what must hold whatever is asked."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.errors import UsageError
from quantlab.plots.timeline import timeline
from quantlab.serve.batching import Measured, Policy, Request, Result, StepCost, simulate

STEP = StepCost(fixed=1.0)  # every step takes a second, so that times count steps
REAL = StepCost(fixed=0.02, prefill=1e-4, sequence=2e-4, context=1e-7)


def _many(number: int = 60, rate: float = 12.0, seed: int = 0) -> list[Request]:
    dice, now, made = random.Random(seed), 0.0, []
    for _ in range(number):
        now += dice.expovariate(rate)
        made.append(Request(now, dice.randint(10, 200), dice.choice([8, 16, 32, 128])))
    return made


def _most_kv(result: Result) -> int:
    return max(step.kv for step in result.steps)


# ------------------------------------------------------------------------------------------- by hand
def test_one_request_takes_a_step_for_its_prompt_and_one_for_each_further_token() -> None:
    for kind in ("static", "continuous", "chunked"):
        [one] = simulate([Request(5.0, 10, 3)], STEP, Policy(kind, slots=1)).served
        assert one.tokens == (6.0, 7.0, 8.0)
        assert (one.ttft, one.e2e, one.gaps) == (1.0, 3.0, [1.0, 1.0])


def test_a_static_batch_ends_with_its_longest_and_the_next_waits() -> None:
    asked = [Request(0, 4, 2), Request(0, 4, 5), Request(0, 4, 1)]
    first, second, third = simulate(asked, STEP, Policy("static", slots=2)).served
    assert first.tokens == (1.0, 2.0)
    assert first.done == second.done == 5.0
    assert third.tokens == (6.0,)
    assert simulate(asked, STEP, Policy("static", slots=2)).busy(2) == (2 + 5 + 1) / (2 * 6)


def test_a_continuous_batch_fills_a_slot_as_soon_as_it_is_free() -> None:
    asked = [Request(0, 4, 2), Request(0, 4, 5), Request(0, 4, 1)]
    first, second, third = simulate(asked, STEP, Policy("continuous", slots=2)).served
    assert (first.tokens, first.done) == ((1.0, 2.0), 2.0)
    assert third.tokens == (3.0,)  # a step of its own, in which the second waits
    assert second.tokens == (1.0, 2.0, 4.0, 5.0, 6.0)


def test_a_chunked_batch_decodes_while_a_long_prompt_is_computed() -> None:
    asked = [Request(0, 2, 6), Request(0.5, 10, 1)]
    policy = Policy("chunked", slots=2, step_tokens=4)
    first, second = simulate(asked, STEP, policy).served
    assert first.gaps == [1.0] * 5
    assert second.tokens == (5.0,)  # 3 + 3 + 3 + 1 tokens beside the other's, from second 1 on
    assert all(sum(tokens for *_, tokens, _ in step.work) <= 4 for step in simulate(asked, STEP, policy).steps)


def test_padding_is_paid_for() -> None:
    cost = StepCost(fixed=1.0, prefill=1.0, sequence=10.0)
    asked = [Request(0, 2, 1), Request(0, 5, 2)]
    assert simulate(asked, cost, Policy("static", slots=2)).seconds == (1 + 2 * 5) + (1 + 2 * 10)
    assert simulate(asked, cost, Policy("continuous", slots=2)).seconds == (1 + 2 + 5) + (1 + 10)


def test_a_full_cache_takes_it_from_the_one_that_came_last() -> None:
    asked = [Request(0, 4, 6), Request(0, 4, 6)]
    policy = Policy("chunked", slots=2, kv_tokens=12)
    first, second = simulate(asked, STEP, policy).served
    assert first.tokens == tuple(float(at) for at in range(1, 7))
    assert (first.preempted, second.preempted) == (0, 1)
    assert len(second.tokens) == 6
    assert second.done > first.done


def test_a_shared_beginning_is_computed_once() -> None:
    asked = [Request(0, 100, 2, "system", 90), Request(20, 100, 2, "system", 90)]
    cost = StepCost(fixed=1.0, prefill=0.1)
    without = simulate(asked, cost, Policy(slots=2)).served
    with_cache = simulate(asked, cost, Policy(slots=2, prefix_cache=True)).served
    assert [one.ttft for one in without] == pytest.approx([11.0, 11.0])
    assert [one.ttft for one in with_cache] == pytest.approx([11.0, 2.0])  # 10 tokens of its own


def test_a_prefix_that_nobody_uses_makes_room() -> None:
    asked = [Request(0, 10, 1, "a", 9), Request(5, 10, 1, "b", 9), Request(9, 10, 1, "a", 9)]
    result = simulate(asked, STEP, Policy(slots=2, kv_tokens=12, prefix_cache=True))
    assert [len(one.tokens) for one in result.served] == [1, 1, 1]
    assert _most_kv(result) <= 12
    assert [step.work[0][2] for step in result.steps] == [10, 10, 10]  # "a" was forgotten for "b"


# ------------------------------------------------------------------------------------------- what must hold
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 20), st.integers(2, 40), st.integers(1, 30), st.sampled_from(["", "p"])),
        min_size=1, max_size=25,
    ),
    st.sampled_from(["static", "continuous", "chunked"]), st.integers(1, 6), st.one_of(st.none(), st.integers(69, 200)),
    st.booleans(),
)  # fmt: skip
def test_everyone_is_served_whole_in_order_and_within_the_cache(rows, kind, slots, kv, prefix_cache) -> None:
    asked = [Request(at, prompt, output, name, 1 if name else 0) for at, prompt, output, name in rows]
    policy = Policy(kind, slots, step_tokens=8, kv_tokens=kv, prefix_cache=prefix_cache and kind != "static")
    result = simulate(asked, REAL, policy)
    for one in result.served:
        assert len(one.tokens) == one.request.output
        assert list(one.tokens) == sorted(set(one.tokens))
        assert one.request.arrives < one.tokens[0] <= one.tokens[-1] <= one.done
    for step in result.steps:
        assert len({slot for _, slot, *_ in step.work}) == len(step.work) <= slots
        assert all(0 <= slot < slots for _, slot, *_ in step.work)
        assert kv is None or step.kv <= kv
    for before, after in zip(result.steps, result.steps[1:], strict=False):
        assert before.end <= after.start
    assert result == simulate(asked, REAL, policy)


def test_what_the_literature_says_of_the_three() -> None:
    asked = _many()
    static, continuous, chunked = (
        simulate(asked, REAL, Policy(kind, slots=16, step_tokens=64)) for kind in ("static", "continuous", "chunked")
    )
    assert continuous.seconds < static.seconds
    assert chunked.tokens_per_s > static.tokens_per_s
    longest = [max(gap for one in found.served for gap in one.gaps) for found in (continuous, chunked)]
    assert longest[1] < longest[0]  # no text stands still for a stranger's prompt


def test_a_small_cache_costs_time() -> None:
    roomy, tight = (simulate(_many(), REAL, Policy(slots=16, kv_tokens=kv)) for kv in (None, 600))
    assert roomy.preemptions == 0
    assert tight.preemptions > 0
    assert tight.seconds > roomy.seconds


def test_the_timeline_says_what_it_draws() -> None:
    asked = [Request(0, 4, 2), Request(0, 4, 5), Request(0, 4, 1)]
    results = {kind: simulate(asked, STEP, Policy(kind, slots=2)) for kind in ("static", "continuous")}
    picture = timeline(results, slots=2)
    assert picture.words == (
        "2 slots over time, PREDICTED. static: 6 s, 1 tokens/s, slots busy 67%. "
        "continuous: 6 s, 1 tokens/s, slots busy 67%."
    )
    assert [axes.get_title(loc="left") for axes in picture.axes] == [
        f"{kind}: 6 s, 1 tokens/s, slots busy 67%" for kind in results
    ]
    assert picture.axes[-1].get_xlabel() == "seconds"
    first = [box.get_extents() for box in picture.axes[0].collections[0].get_paths()]
    assert [(box.x0, box.x1) for box in first] == [(0.0, 1.0), (5.0, 6.0)]  # prompts in slot 1


# ------------------------------------------------------------------------------------------- its cost
def test_a_cost_is_found_again() -> None:
    steps = [
        Measured(p, n, c, REAL.seconds(p, n, c)) for p in (0, 100) for n in (0, 1, 8, 32) for c in (n * 100, n * 300)
    ]
    found = StepCost.fit(steps)
    for name in ("fixed", "prefill", "sequence", "context"):
        assert getattr(found, name) == pytest.approx(getattr(REAL, name), rel=1e-6)


def test_a_cost_is_never_negative() -> None:
    found = StepCost.fit([Measured(0, 1, 0, 0.03), Measured(0, 8, 0, 0.02), Measured(50, 0, 0, 0.04)])
    assert found.sequence == 0.0
    assert found.fixed > 0
    assert found.prefill > 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Policy("greedy"),
        lambda: Policy(slots=0),
        lambda: Policy(slots=64, step_tokens=32),
        lambda: Policy("static", prefix_cache=True),
        lambda: Request(-1, 1, 1),
        lambda: Request(0, 0, 1),
        lambda: Request(0, 4, 1, "all of it", 4),
        lambda: Request(0, 4, 1, "", 2),
        lambda: StepCost(fixed=0.0),
        lambda: StepCost.fit([]),
        lambda: simulate([Request(0, 100, 100)], STEP, Policy(kv_tokens=150)),
        lambda: simulate([Request(0, 9, 1, "a", 3), Request(0, 9, 1, "a", 4)], STEP, Policy()),
    ],
)
def test_nonsense_is_refused(wrong) -> None:
    with pytest.raises(UsageError):
        wrong()
