"""Clients that go wrong, and an engine that is killed, under vLLM's real server: every request is accounted for.

One server for all, which takes most of a minute to start on a CPU; the last test ends it. There is none unless
`quantlab env create serve` made vLLM's environment (or QUANTLAB_VLLM names one). llama.cpp: test_server_faults.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import psutil
import pytest
from request_tally import Tally, gone, good, key_of, knock, post, raw, send
from serve_faults import wait_until

from quantlab.errors import QuantlabError
from quantlab.serve.engines import ENGINES, vllm_python
from quantlab.serve.load import Load, loadtest
from quantlab.serve.server import Server
from quantlab.serve.state import find, members

COMPLETIONS = "/v1/completions"
WRITE = {"prompt": "Once upon a time", "temperature": 1.0, "max_tokens": 240, "ignore_eos": True}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM's server; skips where nobody has made that environment, for it would be gigabytes."""
    if problem := ENGINES["vllm"].missing():
        pytest.skip(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTLAB_VLLM", str(vllm_python()))
        patch.setenv("QUANTLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        with Server("tiny", engine="vllm", context=256) as running:
            yield running
        assert gone(running)


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The same processes before and after each test, and they still answer."""
    before = {process.pid for process in members(shared.id)}
    yield shared
    assert good(shared) == 200
    assert {process.pid for process in members(shared.id)} == before


def test_no_path_is_open_without_the_key(server: Server) -> None:
    """vLLM's own key guards what begins with /v1; /invocations, /tokenize, /metrics and the like would be open."""
    root = server.url.removesuffix("/v1")
    with httpx.Client(trust_env=False, timeout=60) as http:
        paths = http.get(f"{root}/openapi.json", headers=key_of(server)).json()["paths"]
        known = [(method.upper(), path) for path, methods in paths.items() for method in methods]
        assert {"/invocations", "/v1/completions", "/health"} <= paths.keys()
        known += [("GET", path) for path in ("/", "/docs", "/redoc", "/openapi.json", "/metrics", "/v1/../metrics")]
        known += [("OPTIONS", path) for path in paths]
        wrong = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"bearer {server.key}"}]
        body = {"json": {"prompt": "a", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}}
        requests = [
            lambda m=method, p=path, h=headers: http.request(m, root + p, headers=h, **body).status_code
            for method, path in known for headers in wrong
        ]  # fmt: skip
        tally = send("without the key", server, requests)
        assert tally.refused == {401: len(requests)}
        for path in ("/health", "/metrics", "/version"):
            assert http.get(root + path, headers=key_of(server)).status_code == 200


def test_the_key_is_in_no_argument_and_in_no_log(server: Server) -> None:
    processes = list(members(server.id))
    assert len(processes) >= 2  # the web server, and the engine
    assert not any(server.key in " ".join(process.cmdline()) for process in processes)
    assert server.key not in server.log.read_text()
    assert server.key not in repr(server) + repr(find())


MALFORMED = (
    b"", b"{", b"[]", b"5", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, *(json.dumps(body).encode() for body in (
        {}, {"prompt": 5}, {"prompt": ""}, {"prompt": "a", "max_tokens": -1}, {"prompt": "a", "temperature": -1},
        {"prompt": [10**9]}, {"prompt": [-1]}, {"prompt": "a", "n": 10**6}, {"prompt": "a", "logprobs": 10**6},
        {"prompt": "a", "logit_bias": {"99999999": 1}}, {"prompt": "a", "structured_outputs": {"grammar": "x ::= ("}},
        {"prompt": "a", "structured_outputs": {"regex": "((("}}, {"prompt": "fox " * 100_000},
        {"prompt": "fox " * 100_000, "stream": True}, {"prompt": "a" * 20_000_000},
    )),
)  # fmt: skip


def test_malformed_and_huge_requests_are_refused_while_others_are_answered(server: Server) -> None:
    requests = [lambda b=body: post(server, COMPLETIONS, b) for body in MALFORMED]
    requests.append(lambda: post(server, COMPLETIONS, {"model": "another", "prompt": "a"}))
    tally = send("malformed and huge requests", server, [*requests, *[lambda: good(server)] * 4])
    assert (tally.answered, tally.refused, tally.errors, tally.lost) == (4, {400: len(MALFORMED), 404: 1}, {}, 0)
    garbage = (b"\x16\x03\x01" + bytes(500), bytes(4096), b"GET\r\n\r\n", b"GET /" + b"a" * 200_000, b"")
    tally = send("garbage on the socket", server, [lambda d=data: knock(server, d) for data in garbage])
    assert (tally.answered, tally.lost) == (0, 0)
    assert set(tally.errors) <= {"hung up"}


def test_two_hundred_clients_at_once(server: Server) -> None:
    report = loadtest(server.url, server.key, ["Once upon a time"], Load(200, concurrency=200), max_tokens=8)
    tally = Tally.of("200 clients at once", "vllm", report).show()
    assert (tally.sent, tally.answered, tally.refused, tally.errors, tally.lost) == (200, 200, {}, {}, 0)


def test_those_who_leave_and_those_who_stop_reading_do_not_keep_the_others_waiting(server: Server) -> None:
    def leave() -> str:
        with raw(server, WRITE) as line:
            while b"data: {" not in line.recv(4096):
                pass
        return "left"

    stopped = [raw(server, WRITE, room=1024) for _ in range(4)]
    try:
        requests = [*[leave] * 20, *[lambda: good(server, stream=True)] * 16]
        tally = send("20 leave in the middle, 4 stop reading", server, requests, at_once=36)
    finally:
        for line in stopped:
            line.close()
    assert (tally.answered, tally.refused, tally.errors, tally.lost) == (16, {}, {"left": 20}, 0)
    metrics = server.url.removesuffix("/v1") + "/metrics"

    def idle() -> bool:
        lines = httpx.get(metrics, headers=key_of(server)).text.splitlines()
        return [float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running")] == [0.0]

    assert wait_until(idle, 10)  # nothing is written for those who left


def test_every_process_of_vllm_is_known_as_the_servers(server: Server) -> None:
    """Also those that vLLM gives names of their own: whoever is not known is not ended when the others were killed."""
    web = psutil.Process(find(server.url).server.pid)
    descendants = {process.pid: process.name() for process in web.children(recursive=True)}
    assert any("EngineCore" in name for name in descendants.values()), descendants
    assert descendants.keys() <= {process.pid for process in members(server.id)}


def test_an_engine_that_is_killed_under_load_loses_no_request_and_leaves_nothing(shared: Server) -> None:
    """Stands last: it ends the server. vLLM's engine is a process of its own."""
    family = psutil.Process(find(shared.url).server.pid).children(recursive=True)
    engine = next(process for process in family if "EngineCore" in process.name())

    def crash(done: int, total: int, errors: int) -> None:
        if done == 60:
            engine.kill()

    load = Load(200, concurrency=50)
    report = loadtest(shared.url, shared.key, ["Once upon a time"], load, max_tokens=16, timeout_s=30, progress=crash)
    tally = Tally.of("the engine is killed under load", "vllm", report).show()
    assert (tally.sent, tally.lost) == (200, 0)
    assert tally.answered >= 60
    assert sum(tally.errors.values()) + sum(tally.refused.values()) > 0
    assert set(tally.errors) <= {"broken off", "no connection", "ended too soon", "not an answer"}
    with pytest.raises(QuantlabError, match="ended by itself"):
        shared.wait()
    assert gone(shared)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
