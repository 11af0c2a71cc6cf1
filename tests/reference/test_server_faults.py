"""Clients that go wrong, against llama.cpp's real server: every request is accounted for.

Each test prints what it sent and what became of it (`pytest -s`). After each of them the same server still answers a
good request, and when it stops nothing is left. A machine that goes wrong: test_server_machine.py. The
same for vLLM: test_vllm_faults.py.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from IPython.core.formatters import DisplayFormatter
from request_tally import Tally, address, gone, good, key_of, knock, post, raw, send

from quantlab.errors import QuantlabError
from quantlab.serve.engines import ENGINES
from quantlab.serve.load import Load, loadtest
from quantlab.serve.server import Server
from quantlab.serve.state import find, members

pytestmark = pytest.mark.usefixtures("llama_cpp", "own_cache")
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE")
ON = {"0": -100, "1": -100, "2": -100}  # no special token is drawn, so that an answer has its full length
WRITE = {"prompt": "Once upon a time", "temperature": 1.0, "max_tokens": 400, "logit_bias": ON}


@pytest.fixture(scope="module")
def shared(own_cache: None) -> Iterator[Server]:
    with Server("tiny", threads=1) as running:
        yield running
    assert gone(running)


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The same process before and after each test, and it still answers."""
    before = {process.pid for process in members(shared.id)}
    yield shared
    assert good(shared) == 200
    assert {process.pid for process in members(shared.id)} == before


# ---------------------------------------------------------------------------------------------- what is asked wrongly
BODIES = {
    400: [b"", b"{", b'{"prompt":', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"\x00" * 1000, b'"\\ud800"'],
    422: [b"[]", b"5", b"null", b'"x"', b"{}", *(json.dumps(body).encode() for body in (
        {"prompt": 5}, {"prompt": None}, {"prompt": {"a": 1}}, {"prompt": ""}, {"prompt": ["a", "b"]},
        {"prompt": "a", "max_tokens": "x"}, {"prompt": "a", "max_tokens": -5}, {"prompt": "a", "top_k": -9},
        {"prompt": "a", "stop": 5}, {"prompt": "a", "mirostat_mode": 9}, {"prompt": "a", "stream": "perhaps"},
    ))],
    404: [b'{"prompt": "a", "model": "another"}'],
}  # fmt: skip


def test_malformed_requests_are_refused_each_with_a_status_and_a_sentence(server: Server) -> None:
    asked = [(status, body) for status, bodies in BODIES.items() for body in bodies]
    tally = send("malformed requests", server, [lambda b=body: post(server, COMPLETIONS, b) for _, body in asked])
    assert tally.refused == {status: len(bodies) for status, bodies in BODIES.items()}
    assert (tally.answered, tally.lost, tally.errors) == (0, 0, {})
    answer = httpx.post(server.url + "/completions", content=b"{", headers={**key_of(server), "Content-Type": "a/json"})
    assert answer.json()["error"]["message"].startswith("the body: Invalid JSON")
    assert post(server, COMPLETIONS, b"{}", {**key_of(server), "Content-Type": "text/plain"}) == 415


PATTERN = {"type": "object", "properties": {'a"': {"type": "string", "pattern": "^\\$"}}}
TOOL = {"type": "function", "function": {"name": 'f"', "parameters": PATTERN}}
TALK = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}
DEADLY = {  # each of them ends llama-cpp-python 0.3.36, or keeps it busy for minutes
    "a grammar": (COMPLETIONS, {"prompt": "a", "max_tokens": 2, "grammar": "root ::= ("}),
    "a deep grammar": (COMPLETIONS, {"prompt": "a", "max_tokens": 2, "grammar": "root ::= " + "(" * 100_000}),
    "a pattern": (CHAT, {**TALK, "response_format": {"type": "json_object", "schema": PATTERN}}),
    "a long string": (CHAT, {**TALK, "response_format": {"schema": {"minLength": 10**9}, "type": "json_object"}}),
    "a tool": (CHAT, {**TALK, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": 'f"'}}}),
    "a function": (CHAT, {**TALK, "functions": [{**TOOL["function"], "name": "f"}], "function_call": {"name": "f"}}),  # type: ignore[dict-item]
    "a token that is none": ("/extras/detokenize", {"tokens": [10**9]}),
}


def test_what_would_end_llama_cpp_does_not_reach_it(server: Server) -> None:
    requests = [lambda p=path, b=body: post(server, p, b) for path, body in DEADLY.values()]
    tally = send("deadly requests", server, requests, at_once=1)
    assert (tally.refused, tally.answered, tally.errors, tally.lost) == ({400: 6, 404: 1}, 0, {}, 0)


def test_huge_requests_are_refused_while_others_are_answered(server: Server) -> None:
    huge = json.dumps({"prompt": "a" * 20_000_000}).encode()
    long = json.dumps({"prompt": "fox " * 100_000}).encode()  # 100,002 tokens
    requests = [lambda: post(server, COMPLETIONS, huge)] * 4 + [lambda: post(server, COMPLETIONS, long)] * 4
    tally = send("20 MB, and 100,000 tokens", server, [*requests, *[lambda: good(server)] * 8], at_once=16)
    assert (tally.answered, tally.refused, tally.errors, tally.lost) == (8, {413: 4, 400: 4}, {}, 0)
    with pytest.raises(QuantlabError, match=r"Requested tokens \(100002\) exceed context window of 512"):
        "".join(server.client.complete("fox " * 100_000, stream=True))


GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "zeros": bytes(4096),
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a line without end": b"GET /" + b"a" * 200_000,
    "no path": b"GET\r\n\r\n",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a length that is none": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a chunk that is none": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "a chunk beyond all": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"F" * 40 + b"\r\n",
    "a header of a megabyte": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2**20 + b"\r\n\r\n",
    "half a request": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
    "nothing": b"",
}


def test_garbage_on_the_socket(server: Server) -> None:
    requests = [lambda d=data: knock(server, d) for data in GARBAGE.values()]
    tally = send("garbage on the socket", server, requests)
    assert (tally.answered, tally.lost) == (0, 0)
    assert set(tally.refused) <= {400, 401, 431}
    assert set(tally.errors) <= {"hung up"}


# --------------------------------------------------------------------------------------------------- who is let in
def forms(key: str) -> list[dict[str, str]]:
    """Every way to be without the key."""
    values = ["", "Bearer", "Bearer wrong", f"bearer {key}", f"BEARER {key}", f"Basic {key}", key, f"Bearer  {key}",
              f"Bearer {key[:-1]}", f"Bearer {key}x", f"Token {key}", f"Bearer {key.swapcase()}"]  # fmt: skip
    return [{}, {"X-API-Key": key}, {"Cookie": f"key={key}"}, *({"Authorization": value} for value in values)]


def test_no_method_and_no_path_is_open_without_the_key(server: Server) -> None:
    from fastapi import FastAPI
    from llama_cpp.server.app import router

    paths = {route.path for route in (*router.routes, *FastAPI().routes)}  # type: ignore[attr-defined]
    assert len(paths) >= 11
    paths |= {"/", "/metrics", "/health", "/v1", "/v1/", "/nothing", "//v1/models", "/v1/../docs", "/%2e%2e/docs"}
    root = server.url.removesuffix("/v1")
    body = {"content": b'{"prompt": "a"}', "params": {"api_key": server.key}}
    with httpx.Client(trust_env=False) as stranger:
        requests = [
            lambda m=method, p=path, h=headers: stranger.request(m, root + p, headers=h, **body).status_code
            for method in METHODS for path in sorted(paths) for headers in forms(server.key)
        ]  # fmt: skip
        tally = send("without the key", server, requests, at_once=4)
    assert tally.refused == {401: len(requests)}
    assert (tally.answered, tally.errors, tally.lost) == (0, {}, 0)
    for line in (b"OPTIONS * HTTP/1.1", b"GET http://x/v1/models HTTP/1.1", b"CONNECT x:80 HTTP/1.1"):
        assert knock(server, line + b"\r\nHost: x\r\n\r\n") in (400, 401)


def test_the_key_is_not_in_what_a_notebook_shows(server: Server) -> None:
    shown = DisplayFormatter()  # what a cell's last value becomes
    values = (server, server.client, find(), server.engine, server._supervisor, server.log)
    parts = [str(part) for value in values for part in shown.format(value)]
    parts += [repr(value) + str(value) for value in values]
    assert server.key not in " ".join(parts)
    assert "Server('tiny'" in " ".join(parts)


def test_the_key_is_in_one_file_which_nobody_else_can_read(server: Server) -> None:
    files = [path for path in Path(os.environ["QUANTLAB_CACHE"]).rglob("*") if path.is_file()]
    holders = [path for path in files if server.key.encode() in path.read_bytes()]
    assert holders == [find().path]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600


def test_the_key_is_in_no_process_of_the_machine(server: Server) -> None:
    seen = 0
    for process in Path("/proc").glob("[0-9]*"):
        for part in ("cmdline", "environ"):
            try:
                data = (process / part).read_bytes()
            except OSError:  # gone, or another user's
                continue
            assert server.key.encode() not in data, process
            seen += bool(data)
    assert seen >= 4 or not Path("/proc").is_dir()


# ----------------------------------------------------------------------------------------- many, slow, and gone ones
def test_two_hundred_clients_at_once(server: Server) -> None:
    report = loadtest(server.url, server.key, ["Once upon a time"], Load(200, concurrency=200), max_tokens=8)
    tally = Tally.of("200 clients at once", "llama.cpp", report).show()
    assert (tally.sent, tally.answered, tally.refused, tally.errors, tally.lost) == (200, 200, {}, {}, 0)


def read_slowly(line: socket.socket) -> int:
    """A byte at a time, with pauses; the status of the answer when it came to its end."""
    got = bytearray()
    while not got.endswith(b"\r\n0\r\n\r\n"):
        byte = line.recv(1)
        if not byte:
            raise ConnectionError("the answer broke off")
        got += byte
        if len(got) % 64 == 0:
            time.sleep(0.002)
    return int(got.split()[1])


def test_slow_readers_and_one_who_stops_do_not_keep_the_others_waiting(server: Server) -> None:
    stopped = [raw(server, WRITE, room=1024) for _ in range(4)]  # they never read
    slow = [raw(server, {**WRITE, "max_tokens": 40}, room=1024) for _ in range(4)]
    try:
        requests = [*(lambda s=line: read_slowly(s) for line in slow), *[lambda: good(server, stream=True)] * 16]
        tally = send("slow readers, and 4 who stopped", server, requests, at_once=20, within_s=30)
    finally:
        for line in (*stopped, *slow):
            line.close()
    assert (tally.answered, tally.refused, tally.errors, tally.lost) == (20, {}, {}, 0)


def test_an_answer_wider_than_every_buffer_does_not_stop_the_server_when_nobody_reads_it() -> None:
    """Each event names the model: with 20,000 letters 400 of them are 8 MB, more than a socket holds (4 MB)."""
    name = "m" * 20_000
    plain = ENGINES["llama.cpp"]

    def prepare(*arguments: object) -> object:
        return replace(plain.prepare(*arguments), model=name)  # type: ignore[arg-type]

    with Server("tiny", threads=1, engine=replace(plain, prepare=prepare)) as wide:  # type: ignore[arg-type]
        with raw(wide, {**WRITE, "model": name}, room=1024) as stopped:
            tally = send("one who stopped reading 8 MB", wide, [lambda: good(wide)] * 8, within_s=20)
            assert stopped.recv(12) == b"HTTP/1.1 200"
        assert (tally.answered, tally.lost) == (8, 0)


def test_readers_who_leave_are_not_written_for(server: Server) -> None:
    began = time.perf_counter()
    assert post(server, COMPLETIONS, {**WRITE, "stream": True}) == 200
    whole = time.perf_counter() - began

    def leave() -> str:
        with raw(server, WRITE) as line:
            while b"data: {" not in line.recv(4096):
                pass
        return "left"

    tally = send("20 readers leave in the middle", server, [leave] * 20, at_once=20)
    assert (tally.errors, tally.lost) == ({"left": 20}, 0)
    assert tally.seconds < 10 * whole  # each had a first word; 20 whole answers would take 20 times as long
    began = time.perf_counter()
    assert good(server) == 200
    assert time.perf_counter() - began < 5 * whole


def test_clients_who_never_finish_asking_take_nobody_s_place(server: Server) -> None:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\nContent-Length: 99\r\n"
    lines = [socket.create_connection(address(server)) for _ in range(200)]
    try:
        for line in lines:
            line.sendall(head.encode())
        tally = send("beside 200 who never finish asking", server, [lambda: good(server)] * 20)
    finally:
        for line in lines:
            line.close()
    assert (tally.answered, tally.lost) == (20, 0)
