"""The routers, as processes of their own, before servers that go wrong on purpose (tests/load_server.py): whom they
answer, whom they ask, and what a client sees of a replica's fault. tests/unit/test_replicas.py has real models."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import psutil
import pytest
from serve_faults import wait_until

from quantlab.errors import UsageError
from quantlab.serve import nginx
from quantlab.serve.address import bind
from quantlab.serve.load import Load, loadtest
from quantlab.serve.router import PATHS, REST_S, Pool, Replica

KEY = "k" * 32
NOBODY = "http://127.0.0.1:9/v1"  # a port where nothing listens
ROUTERS = [
    "router",
    pytest.param("nginx", marks=pytest.mark.skipif(nginx.program() is None, reason=str(nginx.missing()))),
]


class Route:
    """A router as a process, before these replicas."""

    def __init__(self, name: str, replicas: list[str], host: str = "127.0.0.1") -> None:
        self.name = name
        with closing(bind(host, 0) if host == "127.0.0.1" else socket.create_server((host, 0))) as listener:
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"quantlab.serve.{name}"],
                stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=(listener.fileno(),), text=True,
            )  # fmt: skip
            known: list[object] = [*replicas] if name == "nginx" else [{"url": url, "key": "inner"} for url in replicas]
            settings = {"socket": listener.fileno(), "key": KEY, "replicas": known}
            assert self.process.stdin
            self.process.stdin.write(json.dumps(settings) + "\n")
            self.process.stdin.flush()

    def ask(self, prompt: str = "3", **changes: object) -> httpx.Response:
        options = {"headers": {"Authorization": f"Bearer {KEY}"}, "json": {"prompt": prompt}, "timeout": 20, **changes}
        return httpx.post(f"{self.url}/completions", **options)  # type: ignore[arg-type]

    def load(self, prompts: list[str], load: Load):  # type: ignore[no-untyped-def]
        return loadtest(self.url, KEY, prompts, load, model="nothing", warmup=0, timeout_s=5)

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)
        assert self.process.stderr
        self.process.stderr.close()


@pytest.fixture
def replicas() -> Iterator[Callable[[int], list[str]]]:
    """Starts so many servers and gives their addresses."""
    with ExitStack() as stack:

        def start(count: int) -> list[str]:
            urls = []
            for _ in range(count):
                command = [sys.executable, str(Path(__file__).parent.parent / "load_server.py")]
                process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                stack.callback(process.kill)
                assert process.stdout
                urls.append(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
            return urls

        yield start


@pytest.fixture(params=ROUTERS)
def route(request: pytest.FixtureRequest) -> Iterator[Callable[[list[str]], Route]]:
    """Starts a router of either kind."""
    with ExitStack() as stack:

        def start(urls: list[str]) -> Route:
            found = Route(request.param, urls)
            stack.callback(found.end)
            return found

        yield start


class TestPool:
    def pool(self) -> tuple[Pool, list[Replica], list[float]]:
        now = [100.0]
        replicas = [Replica(f"http://127.0.0.1:{port}/v1", "x") for port in (1, 2, 3)]
        return Pool(replicas, lambda: now[0]), replicas, now

    def test_the_fewest_on_their_way_comes_first_and_equals_take_turns(self) -> None:
        pool, (a, b, c), _ = self.pool()
        with pool.asked(a), pool.asked(b):
            assert pool.best([a, b, c]) is c
            with pool.asked(c):
                assert pool.best([a, b, c]) is a
        assert [one.flying for one in (a, b, c)] == [0, 0, 0]
        asked = []
        for _ in range(6):
            with pool.asked(best := pool.best([a, b, c])):
                asked.append(best)
        assert asked[:3] == asked[3:]
        assert len({id(one) for one in asked}) == 3

    def test_one_that_failed_rests_unless_all_do(self) -> None:
        pool, (a, b, c), now = self.pool()
        pool.failed(a, "failed", ConnectionError())
        with pool.asked(b), pool.asked(c):
            assert pool.best([a, b, c]) is not a
            now[0] += REST_S + 0.1
            assert pool.best([a, b, c]) is a
        for one in (a, b, c):
            pool.failed(one, "failed", ConnectionError())
        assert pool.best([a, b, c]) in (a, b, c)


class TestWhoIsAnswered:
    def test_nobody_without_the_key_on_any_path(self, replicas) -> None:  # type: ignore[no-untyped-def]
        there = Route("router", replicas(1))  # nginx leaves the key to its replicas: tests/unit/test_replicas.py
        assert there.ask().status_code == 200
        root = there.url.removesuffix("/v1")
        paths = [path for _, path in PATHS] + ["/", "/metrics", "/docs", "/v1", "/v1/../metrics", "//v1/models", "/%2e"]
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": KEY},
            {"Authorization": "Bearer inner"},
        ):
            for path in paths:
                for method in ("GET", "POST", "PUT", "OPTIONS", "HEAD"):
                    found = httpx.request(method, root + path, headers=headers, timeout=20)
                    assert found.status_code == 401, (method, path, headers)
        assert found.headers["www-authenticate"] == "Bearer"
        there.end()

    def test_no_other_path_is_passed_on(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route(replicas(1))
        paths = ("/metrics", "/docs", "/openapi.json", "/v1/embeddings", "/v1/models/x")
        for path in (*paths, "/metrics/../v1/x", "/v1/%2e%2e/metrics"):
            with socket.create_connection(("127.0.0.1", httpx.URL(there.url).port)) as raw:  # httpx would tidy the path
                lines = f"GET {path} HTTP/1.1", "Host: x", "Connection: close", f"Authorization: Bearer {KEY}"
                raw.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
                assert raw.makefile("rb").readline().split()[1] == b"404", path

    def test_a_path_has_one_method(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route(replicas(1))
        with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=20) as client:
            assert client.get(f"{there.url}/completions").status_code in (403, 405)
            assert client.post(f"{there.url}/models", json={}).status_code in (403, 405)
            assert client.get(f"{there.url}/models").json()["data"][0]["id"] == "nothing"

    def test_long_questions_pass_and_endless_ones_do_not(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route(replicas(1))
        assert there.ask("3" + " 0" * 200_000).status_code == 200
        assert there.ask("3" + " 0" * 20_000_000).status_code == 413

    def test_it_refuses_to_listen_for_others(self) -> None:
        there = Route("router", [NOBODY], host="0.0.0.0")
        assert there.process.wait(20) == 1
        assert there.process.stderr
        assert "this machine only" in there.process.stderr.read()
        there.end()
        with pytest.raises(UsageError, match="refusing to listen"):
            nginx.configuration([NOBODY], "0.0.0.0:8000")


class TestFaults:
    def test_a_dead_replica_is_not_noticed(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route([NOBODY, *replicas(1), NOBODY])
        report = there.load(["3"], Load(40, concurrency=4))
        assert (report.sent, report.answered, report.errors) == (40, 40, {})

    def test_no_replica_is_a_bad_gateway_at_once(self, route) -> None:  # type: ignore[no-untyped-def]
        there, began = route([NOBODY, NOBODY]), time.monotonic()
        assert there.ask().status_code == 502
        assert there.ask().status_code == 502
        assert time.monotonic() - began < 10

    def test_an_answer_that_breaks_off_does_not_look_whole(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route(replicas(2))
        report = there.load(["cut"], Load(8, concurrency=2))
        assert report.errors == {"broken off": 8}
        with pytest.raises(httpx.RemoteProtocolError):
            there.ask("cut")

    def test_the_servers_own_errors_are_passed_on(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route(replicas(2))
        assert there.load(["500", "3"], Load(8, concurrency=2)).errors == {"HTTP 500": 4}

    def test_each_piece_comes_when_it_is_made(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route(replicas(1))
        (sample,) = there.load(["5 0.2"], Load(1, concurrency=1)).samples
        assert sample.ok
        assert all(0.1 < gap < 0.4 for gap in sample.gaps), sample.gaps

    def test_load_is_shared(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route(urls := replicas(2))
        ports = [httpx.URL(url).port for url in urls]
        seen: list[set[int]] = []
        there.load(["2 0.5"], Load(1, concurrency=1))  # it is up

        def look(done: int, total: int, errors: int) -> None:
            seen.append(self.connected(there, ports))

        loadtest(there.url, KEY, ["1 0.2", "3 0.2"], Load(12, concurrency=4), model="nothing", warmup=0, progress=look)
        assert any(found == set(ports) for found in seen), seen

    def test_who_goes_away_is_not_answered_on(self, replicas, route) -> None:  # type: ignore[no-untyped-def]
        there = route(urls := replicas(1))
        ports = [httpx.URL(url).port for url in urls]
        options = {"headers": {"Authorization": f"Bearer {KEY}"}, "json": {"prompt": "200 0.1"}, "timeout": 20}
        with httpx.stream("POST", f"{there.url}/completions", **options) as answer:  # type: ignore[arg-type]
            pieces = answer.iter_bytes()
            next(pieces)
            assert self.connected(there, ports)
        assert wait_until(lambda: not self.connected(there, ports), 3.0)
        with pytest.raises(httpx.ReadTimeout):
            there.ask("1 30", timeout=1)  # gone before the first piece
        assert wait_until(lambda: not self.connected(there, ports), 3.0)

    def connected(self, there: Route, ports: list[int | None]) -> set[int]:
        """To which of these ports the router has a connection."""
        family = [psutil.Process(there.process.pid)]
        family += family[0].children(recursive=True)
        ends = [end for one in family for end in one.net_connections() if end.status == psutil.CONN_ESTABLISHED]
        return {end.raddr.port for end in ends if end.raddr and end.raddr.port in ports}


class TestEnds:
    def test_with_stdin_and_leaves_nothing(self, route) -> None:  # type: ignore[no-untyped-def]
        there = route([NOBODY])
        assert there.ask().status_code == 502
        family = psutil.Process(there.process.pid).children(recursive=True)
        there.end()
        assert wait_until(lambda: not any(one.is_running() for one in family))

    @pytest.mark.skipif(nginx.program() is None or sys.platform != "linux", reason="nginx on Linux")
    def test_nginx_ends_with_a_killed_parent(self) -> None:
        there = Route("nginx", [NOBODY])
        assert there.ask().status_code == 502
        family = psutil.Process(there.process.pid).children(recursive=True)
        assert family
        there.process.kill()
        assert wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in family))
        there.end()


class TestNginxConfiguration:
    def test_it_holds_the_rules_and_no_key(self) -> None:
        text = nginx.configuration(["http://127.0.0.1:9001/v1", "http://[::1]:9002/v1"], "127.0.0.1:8000")
        for line in (
            "least_conn;", "server 127.0.0.1:9001 max_fails=1 fail_timeout=2s;", "server [::1]:9002 max_fails=1",
            "listen 127.0.0.1:8000;", "proxy_buffering off;", "proxy_next_upstream error non_idempotent;",
            "proxy_next_upstream_tries 2;", "location / { return 404; }",
        ):  # fmt: skip
            assert line in text
        assert "timeout non_idempotent" not in text
        assert "Bearer" not in text

    def test_what_to_do_where_it_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QUANTLAB_NGINX", "no-such-nginx")
        assert nginx.program() is None
        assert "apt-get install nginx" in str(nginx.missing())
        monkeypatch.setenv("QUANTLAB_NGINX", os.fspath(sys.executable))
        assert nginx.missing() is None
