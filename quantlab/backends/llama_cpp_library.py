"""The C library behind llama-cpp-python: is it there, what does it say, and how to call it without losing Ctrl-C."""

from __future__ import annotations

import ctypes
import importlib.util
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

import torch

from quantlab.backends.llama_cpp_build import fault
from quantlab.errors import QuantlabError

U = TypeVar("U")


def available() -> str | None:
    """None when llama.cpp can be used, else the sentence that says why not and how to get it."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed; with a C++ compiler: pip install 'quantlab[llamacpp]'"
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        again = "pip install --force-reinstall --no-deps llama-cpp-python"
        return f"llama-cpp-python cannot be loaded ({error}); build it again: {again}"
    return fault(llama_cpp)


def library() -> Any:
    """The module llama_cpp; raises QuantlabError where it cannot be used."""
    if (problem := available()) is not None:
        raise QuantlabError(problem)
    import llama_cpp

    return llama_cpp


def threads() -> int:
    """As many threads as torch would use: one setting (OMP_NUM_THREADS) for both."""
    return torch.get_num_threads()


def aside(function: Callable[..., U], *args: Any) -> U:
    """function(*args) in a thread of its own, waited for even when an interrupt arrives meanwhile.

    Python runs signal handlers in the main thread only, also within a callback from C, where what they raise is lost:
    so nothing that may call back runs there.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # an interrupt while a thread starts would leave it unknown to the pool
        return pool.submit(function, *args).result()


class Log:
    """llama.cpp's chatter, kept in a list instead of on the terminal while anything here is running.

    The callback is never freed, since C may still hold it.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=60)
        self._lock = Lock()
        self._users = 0
        self._callback: Any = None

    def _keep(self, level: int, text: bytes, user_data: Any) -> None:
        self.lines.append(text.decode("utf-8", "replace"))

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Nothing is printed within; may be nested and used by several threads."""
        llama = library()
        with self._lock:
            if self._users == 0:
                self._callback = self._callback or llama.llama_log_callback(self._keep)
                llama.llama_log_set(self._callback, ctypes.c_void_p(0))
                self.lines.clear()
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    llama.llama_log_set(llama._logger.llama_log_callback, ctypes.c_void_p(0))

    def reason(self) -> str:
        """The last line that looks like a reason."""
        lines = [line.strip() for line in "".join(self.lines).splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower() or "fail" in line.lower()]
        return (told or lines or ["no reason given"])[-1]


LOG = Log()
