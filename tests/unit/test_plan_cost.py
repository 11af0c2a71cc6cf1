"""Dollars and users: the guide's figures recomputed, Little's law in a simulated queue, a day's bill line by line."""

from __future__ import annotations

import random
from typing import Any

import pytest

from quantlab.errors import UsageError
from quantlab.plan.capacity import Capacity, capacity, choices, in_system
from quantlab.plan.cost import Day, cost_of_day, seconds_for, usd_per_million
from quantlab.plan.gpus import GPUS, gpu
from quantlab.plan.memory import VLLM_UTILIZATION, max_batch


# claim S4: dollars an hour, tokens a second, and the claimed dollars for a million tokens
@pytest.mark.parametrize(
    ("usd", "speed", "said", "found"),
    [
        (3.28, 1200, 0.757, 0.759), (1.64, 1800, 0.253, 0.253), (2.98, 1600, 0.517, 0.517), (2.98, 2400, 0.345, 0.345),
        (1.04, 3800, 0.076, 0.076),
    ],
)  # fmt: skip
def test_the_guides_costs(usd: float, speed: float, said: float, found: float) -> None:
    assert round(usd_per_million(usd, speed), 3) == found
    assert usd_per_million(usd, speed) == pytest.approx(said, rel=0.01)


def test_s6_three_times_cheaper_under_its_own_figures() -> None:
    assert usd_per_million(3.28, 1200) / usd_per_million(1.64, 1800) == pytest.approx(3)


def test_little_s_law_holds_in_a_queue_that_is_played_through() -> None:
    """Requests come at random, four are served at a time, each for a random time: N = rate x time, waiting included."""
    draw = random.Random(7)
    arrivals, now = [], 0.0
    for _ in range(4000):
        now += draw.expovariate(2.0)
        arrivals.append(now)
    free = [0.0] * 4
    stays, area = [], 0.0
    for came in arrivals:
        server = min(range(4), key=free.__getitem__)
        free[server] = max(came, free[server]) + draw.expovariate(0.6)
        stays.append(free[server] - came)
        area += free[server] - came
    end = max(free)
    seen = area / end  # the mean number in the system over time
    assert in_system(len(arrivals) / end, sum(stays) / len(stays)) == pytest.approx(seen)


def test_capacity_obeys_littles_law_and_memory() -> None:
    best = capacity("llama-3.1-8b", "awq_int4_g128", "a10", 1000, 200)
    assert best.at_once == max_batch("llama-3.1-8b", "awq_int4_g128", "a10", 1200, utilization=VLLM_UTILIZATION)
    assert in_system(best.requests_per_s, best.seconds) == pytest.approx(best.at_once)
    assert best.seconds == pytest.approx(best.at_once * best.prefill_s + best.output * best.step_s)
    assert best.output_tokens_per_s == pytest.approx(best.tokens_per_s_each * best.at_once)
    assert best.users(0) == pytest.approx(best.at_once)
    assert best.users(30) == pytest.approx(best.at_once + 30 * best.requests_per_s)
    assert best.usd_per_million == pytest.approx(usd_per_million(0.86, best.output_tokens_per_s))


def test_fewer_at_once_are_faster_each_and_dearer() -> None:
    most, few = (capacity("llama-3.1-8b", "bf16", "a100-80", 1000, 200, at_once=n) for n in (None, 4))
    assert few.at_once == 4 < most.at_once
    assert few.seconds < most.seconds
    assert few.usd_per_million is not None
    assert most.usd_per_million is not None
    assert few.usd_per_million > most.usd_per_million


def test_s10_hundreds_of_users_of_a_70b_model_on_one_card() -> None:
    """70B with AWQ on one A100 80 GB: KV memory holds some ninety texts of 1,200 tokens, and as many wait as read."""
    best = capacity("llama-3-70b", "awq_int4_g128", "a100-80", 1000, 200)
    assert 80 < best.at_once < 110
    assert 100 < best.users(think_s=30) < 200
    assert best.users(think_s=120) > 250  # people who read for two minutes
    assert capacity("llama-3-70b", "awq_int4_g128", "a100-80", 1000, 200, kv_bits=8).at_once > 1.9 * best.at_once


# claim S13: model -> the card that is said to be right for it with AWQ
@pytest.mark.parametrize(
    ("model", "card"),
    [("llama-3-70b", "a100-80"), ("codellama-34b", "l40s"), ("llama-2-13b", "rtx-4090"), ("llama-2-7b", "rtx-4090")],
)
def test_s13_each_card_holds_its_model(model: str, card: str) -> None:
    found = choices(model, "awq_int4_g128", 1000, 200)
    assert card in [choice.gpu.name for choice in found]
    costs = [choice.usd_per_million for choice in found if choice.usd_per_million is not None]
    assert costs == sorted(costs)
    assert {"v100-16", "v100-32", "mi300x"}.isdisjoint(choice.gpu.name for choice in found)  # vLLM has no AWQ there


def test_s13_405b_needs_four_a100s() -> None:
    assert choices("llama-3.1-405b", "awq_int4_g128", 1000, 200) == []
    assert capacity("llama-3.1-405b", "awq_int4_g128", "a100-80", 1000, 200, gpus=4).at_once > 20
    with pytest.raises(UsageError, match="leaves no room for a text of 1,200 tokens on 2 x A100 80 GB"):
        capacity("llama-3.1-405b", "awq_int4_g128", "a100-80", 1000, 200, gpus=2)


def test_a_card_without_a_price_comes_last_and_has_no_cost() -> None:
    found = choices("llama-3-70b", "bf16", 1000, 200)
    assert found[-1].gpu.name == "mi300x"
    assert found[-1].usd_per_million is None
    assert choices("llama-2-7b", "bf16", 100, 100, cards=[GPUS["l4"]])[0].gpu is GPUS["l4"]


# ------------------------------------------------------------------------------------------- a day of traffic
def day(**changes: Any) -> Day:
    given = {"requests": 10_000, "output_tokens": 250, "tokens_per_s": 12, "at_once": 1, "usd_per_hour": 1.006}
    return Day(**{**given, **changes})


def test_a_day_is_reckoned_line_by_line() -> None:
    bill = cost_of_day(day(at_once=6, peak=3, first_token_s=1))
    assert bill.day.seconds_each == pytest.approx(1 + 250 / 12)
    assert bill.machines == 2  # 10,000 / 86,400 x 3 x 21.8 s = 7.6 at the peak, 6 at once on each
    assert bill.usd == pytest.approx(2 * 24 * 1.006)
    assert bill.usd_per_request == pytest.approx(bill.usd / 10_000)
    assert bill.usd_per_million == pytest.approx(bill.usd / 2.5)
    assert len(bill.lines) == 5
    assert str(bill).endswith("paid: 2 machines x 24 hours x $1.006 = $48.29 a day")
    assert "= 7.6 requests" in bill.lines[1]


def test_billed_by_the_second_no_idle_hour_is_paid() -> None:
    bill = cost_of_day(day(billed="busy"))
    assert bill.machine_hours == pytest.approx(10_000 * 250 / 12 / 3600)
    assert bill.usd_per_million == pytest.approx(usd_per_million(1.006, 12))


def test_s3_200_dollars_and_20_dollars_a_day() -> None:
    """Claim S3 names no assumptions. $200 are 72 s of an A10G for each request; $20 the same with 10 at a time."""
    alone = seconds_for(200, 10_000, usd_per_hour=1.006)
    assert alone == pytest.approx(71.57, abs=0.01)
    assert alone * 12 == pytest.approx(859, abs=1)  # tokens at the 12 a second of claim S2
    assert seconds_for(20, 10_000, usd_per_hour=1.006, at_once=10) == pytest.approx(alone)
    for at_once, usd in ((1, 200), (10, 20), (6, 200 / 6)):
        bill = cost_of_day(day(output_tokens=859, at_once=at_once, billed="busy"))
        assert bill.usd == pytest.approx(usd, rel=1e-3)
    assert cost_of_day(day(output_tokens=859)).machines == 9  # rented all day: nine machines, not one
    assert cost_of_day(day(output_tokens=859)).usd > 210


def test_one_request_at_a_time_still_needs_a_machine() -> None:
    bill = cost_of_day(day(requests=1, output_tokens=1))
    assert (bill.machines, bill.usd) == (1, pytest.approx(24 * 1.006))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": 0}, "requests must be a whole number"), ({"output_tokens": 2.5}, "output_tokens"),
        ({"at_once": -1}, "at_once"), ({"tokens_per_s": 0}, "tokens_per_s"), ({"usd_per_hour": -1}, "usd_per_hour"),
        ({"peak": 0.5}, "peak must be a number from 1 to 1000"), ({"first_token_s": float("nan")}, "first_token_s"),
        ({"billed": "never"}, "billed must be one of busy, always"),
    ],
)  # fmt: skip
def test_absurd_days_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        day(**changes)


@pytest.mark.parametrize(
    "call",
    [
        lambda: usd_per_million(-1, 100),
        lambda: usd_per_million(1, 0),
        lambda: in_system(-1, 2),
        lambda: seconds_for(200, 0, 1),
        lambda: seconds_for(200, 10, 0),
        lambda: capacity("llama-3-8b", "bf16", "a10", 0, 10),
        lambda: capacity("llama-3-8b", "bf16", "a10", 10, 10, at_once=0),
    ],
)
def test_absurd_numbers_are_refused(call: Any) -> None:
    with pytest.raises(UsageError, match="must be a"):
        call()


def test_a_capacity_is_a_value() -> None:
    assert isinstance(capacity("llama-3-8b", "bf16", gpu("a10"), 100, 100), Capacity)
