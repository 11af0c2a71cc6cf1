"""Threads that share the work: results in order, a resource for each, nothing running after close."""

from __future__ import annotations

import threading
import time

import pytest

from quantlab.backends.workers import Workers


def test_results_come_in_the_order_of_the_items() -> None:
    workers = Workers([None] * 3)
    late_first = workers.in_order(lambda _, n: (time.sleep(0.03 * (n % 3 == 0)), n)[1], range(12))
    assert list(late_first) == list(range(12))
    workers.close()


def test_each_resource_serves_one_piece_of_work_at_a_time() -> None:
    class Resource:
        busy = False

    resources = [Resource(), Resource()]
    overlaps, used, most = [], set(), [0]

    def work(resource: Resource, n: int) -> int:
        overlaps.append(resource.busy)
        resource.busy = True
        used.add(id(resource))
        most[0] = max(most[0], sum(one.busy for one in resources))
        time.sleep(0.005)
        resource.busy = False
        return n

    workers = Workers(resources)
    assert sorted(workers.in_order(work, range(20))) == list(range(20))
    workers.close()
    assert not any(overlaps)
    assert len(used) == most[0] == 2, "both worked, and at the same time"


def test_only_a_few_results_wait() -> None:
    begun: list[int] = []
    workers = Workers([None] * 2)
    results = workers.in_order(lambda _, n: begun.append(n), range(100))
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 4
    results.close()
    workers.close()


def test_a_failure_arrives_where_the_result_would() -> None:
    workers = Workers([None])
    results = workers.in_order(lambda _, n: 1 // n, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(workers.in_order(lambda _, n: 1 // n, [1])) == [1], "the others go on"
    workers.close()


def test_close_waits_for_what_is_running_and_drops_the_rest() -> None:
    begun, ended = [], []

    def work(_: None, n: int) -> None:
        begun.append(n)
        time.sleep(0.05)
        ended.append(n)

    workers = Workers([None] * 2)
    results = workers.in_order(work, range(50))
    next(results)
    workers.close()
    assert len(begun) < 6
    assert sorted(begun) == sorted(ended)


def test_every_thread_is_prepared_before_the_first_work() -> None:
    prepared = []
    workers = Workers([None] * 3, lambda: prepared.append(threading.get_ident()))
    assert len(set(prepared)) == 3
    assert set(workers.in_order(lambda _, n: threading.get_ident(), range(9))) <= set(prepared)
    workers.close()
