"""Run a load test: send on time, whatever the server does; count every error; lose nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from quantlab.errors import QuantlabError, UsageError
from quantlab.serve.address import api_url
from quantlab.serve.load.arrivals import Load
from quantlab.serve.load.report import Limits, Report
from quantlab.serve.load.request import Sample, ask

Progress = Callable[[int, int, int], None]  # answered, of how many, of these with an error
TIMEOUT_S = 600.0  # the longest silence of a server that is borne


def loadtest(
    url: str,
    key: str | None,
    prompts: Sequence[str],
    load: Load,
    *,
    model: str | None = None,
    max_tokens: int = 64,
    options: dict[str, Any] | None = None,
    warmup: int = 1,
    limits: Limits | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Progress = lambda done, total, errors: None,
) -> Report:
    """Send `load` of these prompts (in turn, from the first again) to an OpenAI-compatible server, and report.

    options go into every request (`temperature`, `ignore_eos`, ...). warmup: requests that are sent first and not
    counted. limits: what an answer must keep to count as good. Works in a notebook too. Raises QuantlabError where the
    server cannot be reached at all; errors of single requests are counted in the report.
    """
    if not prompts:
        raise UsageError("a load test needs at least one prompt")
    if max_tokens < 1 or warmup < 0 or timeout_s <= 0:
        raise UsageError(
            f"max_tokens must be at least 1, warmup 0, timeout_s above 0; got {max_tokens}, {warmup}, {timeout_s}"
        )
    where = api_url(url)

    async def everything() -> Report:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        patience = aiohttp.ClientTimeout(total=None, sock_connect=min(30.0, timeout_s), sock_read=timeout_s)
        room = aiohttp.TCPConnector(limit=0)  # as many connections as there are requests on their way
        async with aiohttp.ClientSession(headers=headers, timeout=patience, connector=room) as http:
            name = model or await _only_model(http, where)
            fixed = {"model": name, "max_tokens": max_tokens, "stream": True, "temperature": 0,
                     "stream_options": {"include_usage": True}, **(options or {})}  # fmt: skip

            def body(number: int) -> dict[str, Any]:
                return {**fixed, "prompt": prompts[number % len(prompts)]}

            for number in range(warmup):
                await ask(http, where, body(number), Sample(0.0), time.perf_counter())
            began = time.perf_counter()
            send = _open if load.is_open else _closed
            samples = await send(http, where, body, load, began, progress)
            return Report.of(samples, load, time.perf_counter() - began, name, limits)

    return _in_a_loop(everything)


async def _only_model(http: aiohttp.ClientSession, where: str) -> str:
    """The name of the server's first model; raises QuantlabError where nothing answers."""
    try:
        async with http.get(f"{where}/models") as response:
            response.raise_for_status()
            return str((await response.json(content_type=None))["data"][0]["id"])
    except aiohttp.ClientResponseError as error:
        raise QuantlabError(f"{where} answers with HTTP {error.status}; is the key right?") from error
    except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
        raise QuantlabError(f"no server answers at {where}; start one with: quantlab serve tiny") from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise QuantlabError(f"{where} answers, but not as an OpenAI-compatible server does") from error


async def _open(
    http: aiohttp.ClientSession, where: str, body: Any, load: Load, began: float, progress: Progress
) -> list[Sample]:
    """Each request at its time, as a task of its own."""
    samples = [Sample(due) for due in load.times()]
    tasks = []
    counter = _Counter(progress, load.requests)
    for number, sample in enumerate(samples):
        if (wait := began + sample.due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(counter.after(ask(http, where, body(number), sample, began), sample)))
    await asyncio.gather(*tasks)
    return samples


async def _closed(
    http: aiohttp.ClientSession, where: str, body: Any, load: Load, began: float, progress: Progress
) -> list[Sample]:
    """So many workers, each with one request on its way."""
    assert load.concurrency is not None
    samples: list[Sample] = []
    counter = _Counter(progress, load.requests)

    async def work() -> None:
        while (number := len(samples)) < load.requests:
            sample = Sample(time.perf_counter() - began)
            samples.append(sample)
            await counter.after(ask(http, where, body(number), sample, began), sample)

    await asyncio.gather(*(work() for _ in range(min(load.concurrency, load.requests))))
    return samples


class _Counter:
    """Tells the progress after each request."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done, self._errors = progress, total, 0, 0

    async def after(self, request: Any, sample: Sample) -> None:
        await request
        self._done += 1
        self._errors += bool(sample.error)
        self._progress(self._done, self._total, self._errors)


def _in_a_loop(everything: Callable[[], Any]) -> Report:
    """Run to the end, also where a notebook's own event loop is running: then on a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        found: Report = asyncio.run(everything())
        return found
    box: list[Report | BaseException] = []

    def run() -> None:
        try:
            box.append(asyncio.run(everything()))
        except BaseException as error:  # carried to the caller's thread
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]
