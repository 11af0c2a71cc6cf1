"""Run a model on many sequences at once, one thread each, and take the results in order.

Two ways to use two cores: split each matrix product between them, or give each its own sequence. The products of a
small model are too short for the first: the threads meet at a barrier hundreds of times a second and wait for each
other, much longer still when another program takes a core (measured on 2 cores: 3.1 s against 2.8 s for the 60 stories;
with a third busy program 18 s against 6 s). It also makes every number independent of how many cores there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Barrier
from typing import Generic, TypeVar

R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")


class Workers(Generic[R]):
    """As many threads as there are resources; a piece of work has one of them to itself while it runs.

    >>> with_names = Workers(["left", "right"])
    >>> sorted(set(with_names.in_order(lambda name, n: n * n, [3, 1, 2])))
    [1, 4, 9]
    >>> with_names.close()
    """

    def __init__(self, resources: Sequence[R], initializer: Callable[[], None] = lambda: None) -> None:
        self._count = len(resources)
        self._free: SimpleQueue[R] = SimpleQueue()
        for resource in resources:
            self._free.put(resource)
        self._pool = ThreadPoolExecutor(self._count, initializer=initializer)
        started = Barrier(self._count + 1)
        try:
            for _ in range(self._count):
                self._pool.submit(started.wait)
            started.wait()  # every thread has run its initializer
        except BaseException:  # an interrupt: let the threads go, or the program could not end
            started.abort()
            raise

    def in_order(self, work: Callable[[R, T], U], items: Iterable[T]) -> Iterator[U]:
        """work(resource, item) for each item, in the order of the items; at most one result for each worker waits."""

        def borrow(item: T) -> U:
            resource = self._free.get()
            try:
                return work(resource, item)
            finally:
                self._free.put(resource)

        pending: deque[Future[U]] = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(borrow, item))
                if len(pending) > self._count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def close(self) -> None:
        """Wait for what is running, drop what is not; afterwards no thread uses a resource."""
        self._pool.shutdown(wait=True, cancel_futures=True)
