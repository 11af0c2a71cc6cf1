"""The explorers of lesson 5, driven to every extreme, back and out of order; what they show is what batching does."""

from __future__ import annotations

import pytest
from explorer_laws import ExplorerLaws, Make

from quantlab.widgets import batching_explorer, load_explorer
from quantlab.widgets.batching_explorer import LENGTHS, ROOMS, SLOTS
from quantlab.widgets.batching_explorer import result as batching
from quantlab.widgets.load_explorer import RATES, curve


class TestBatchingExplorer(ExplorerLaws):
    @pytest.fixture
    def make(self) -> Make:
        return batching_explorer

    def test_answers_alike_leave_nothing_to_fill(self) -> None:
        seconds = {
            kind: batching(kind, "all alike", "plenty").found.seconds for kind in ("static", "continuous", "chunked")
        }
        assert len({round(s, 6) for s in seconds.values()}) == 1

    @pytest.mark.parametrize("lengths", [name for name in LENGTHS if name != "all alike"])
    @pytest.mark.parametrize("room", list(ROOMS))
    def test_a_static_batch_waits_and_chunks_do_not(self, lengths: str, room: str) -> None:
        static, chunked = (batching(kind, lengths, room).found for kind in ("static", "chunked"))
        assert chunked.seconds < static.seconds
        assert chunked.busy(SLOTS) > static.busy(SLOTS)
        assert static.preemptions == 0


class TestLoadExplorer(ExplorerLaws):
    @pytest.fixture
    def make(self) -> Make:
        return load_explorer

    def test_more_requests_are_never_better_for_the_wait(self) -> None:
        for slots in (4, 64):
            good = curve("bf16", slots).good
            assert good[0] == 1
            assert good[-1] < 0.95

    def test_slots_shorten_the_wait_and_lengthen_each_token(self) -> None:
        few, many = curve("bf16", 4), curve("bf16", 64)
        at = RATES.index(160.0)
        assert many.ttft[at] < few.ttft[at]
        assert many.tpot[at] > few.tpot[at]


def test_four_bits_keep_the_limits_at_a_higher_rate() -> None:
    small, large = curve("int4_g128", 16).most, curve("bf16", 16).most
    assert small
    assert large
    assert small > large
