"""How much memory a piece of work really took: the process is looked at a hundred times a second."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

import psutil


class PeakMemory:
    """`with PeakMemory() as peak: ...`; then `peak.nbytes` is the most that was added to what was there before.

    Resident memory of this process alone. What the allocator kept from earlier work and gives out again is not seen.
    """

    def __init__(self, every_s: float = 0.01) -> None:
        self.nbytes = 0
        self._every_s, self._stop = every_s, threading.Event()
        self._process = psutil.Process(os.getpid())
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._before = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self._look()

    def _look(self) -> None:
        self.nbytes = max(self.nbytes, self._process.memory_info().rss - self._before)
