"""Many requests at a real server, and what became of each: answered, refused with a status, an error of a kind, lost.

A request is a function. It returns the status of its answer (200 only for one that came whole) or, of a client that
goes wrong on purpose, a word for how it ended; or it raises. Lost is what did none of these in time.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import httpx

from quantlab.serve.load import Report
from quantlab.serve.places import servers_folder
from quantlab.serve.server import Server
from quantlab.serve.state import members

Outcome = int | str
Request = Callable[[], Outcome]


@dataclass(frozen=True)
class Tally:
    """What became of so many requests."""

    fault: str
    engine: str
    sent: int
    answered: int
    refused: dict[int, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """Of which nothing was heard: neither an answer, nor a refusal, nor an error."""
        return self.sent - self.answered - sum(self.refused.values()) - sum(self.errors.values())

    @classmethod
    def of(cls, fault: str, engine: str, report: Report) -> Tally:
        """Of a load test."""
        refused = {int(kind[5:]): count for kind, count in report.errors.items() if kind.startswith("HTTP ")}
        errors = {kind: count for kind, count in report.errors.items() if not kind.startswith("HTTP ")}
        return cls(fault, engine, report.sent, report.answered, refused, errors, report.seconds)

    def show(self) -> Tally:
        """Print the figures on one line."""
        parts = [f"{kind} x {count}" for kind, count in sorted(self.refused.items())]
        kinds = [f"{kind} x {count}" for kind, count in sorted(self.errors.items())]
        print(
            f"\n{self.engine}, {self.fault}: sent {self.sent}, answered {self.answered}, "
            f"refused {sum(self.refused.values())} ({', '.join(parts) or 'none'}), "
            f"errors {sum(self.errors.values())} ({', '.join(kinds) or 'none'}), lost {self.lost}, {self.seconds:.1f} s"
        )
        return self


def send(fault: str, server: Server, requests: Sequence[Request], at_once: int = 8, within_s: float = 60.0) -> Tally:
    """Send them, so many at once, and wait for all, but not for ever."""
    began = time.perf_counter()
    pool = ThreadPoolExecutor(at_once)
    futures = [pool.submit(request) for request in requests]
    done, _ = wait(futures, within_s)
    pool.shutdown(wait=False, cancel_futures=True)
    ends: list[Outcome] = []
    for future in done:
        error = future.exception()
        if error is not None and not isinstance(error, httpx.HTTPError | OSError):
            raise error  # the test's own mistake
        ends.append(type(error).__name__ if error else future.result())
    refused = Counter(end for end in ends if isinstance(end, int) and end != 200)
    errors = Counter(end for end in ends if isinstance(end, str))
    seconds = time.perf_counter() - began
    return Tally(fault, server.engine.name, len(requests), ends.count(200), refused, errors, seconds).show()


def key_of(server: Server) -> dict[str, str]:
    """The header that lets a request in."""
    return {"Authorization": f"Bearer {server.key}"}


def post(server: Server, path: str, body: Any, headers: dict[str, str] | None = None, timeout_s: float = 60.0) -> int:
    """The status of one answer; the body is sent as it is if it is bytes, else as JSON. A stream must come whole."""
    given = {"Content-Type": "application/json", **(key_of(server) if headers is None else headers)}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    root = server.url.removesuffix("/v1")
    with httpx.Client(trust_env=False, timeout=timeout_s) as http:
        answer = http.post(root + path, content=data, headers=given)
    if "event-stream" in answer.headers.get("content-type", "") and "data: [DONE]" not in answer.text:
        raise httpx.RemoteProtocolError(answer.text[-200:])
    return answer.status_code


def good(server: Server, tokens: int = 4, **options: Any) -> int:
    """The status of a request that every server should answer."""
    body = {"model": server.client.models()[0], "prompt": "Once upon a time", "max_tokens": tokens, "temperature": 0}
    return post(server, "/v1/completions", {**body, **options})


def gone(server: Server) -> bool:
    """Whether a server has left neither a process nor a record."""
    return not any(members(server.id)) and not list(servers_folder().glob(f"{server.id}.json"))


def address(server: Server) -> tuple[str, int]:
    """Where the server listens."""
    url = httpx.URL(server.url)
    assert url.port
    return url.host, url.port


def raw(server: Server, body: dict[str, Any], room: int | None = None) -> socket.socket:
    """A request for a stream on a socket of our own, its answer not read yet; room: bytes that our side takes in."""
    data = json.dumps({"stream": True, **body}).encode()
    line = socket.socket()
    line.settimeout(60)
    if room:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    line.connect(address(server))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    line.sendall(head.encode() + data)
    return line


def knock(server: Server, data: bytes, patience_s: float = 3.0) -> Outcome:
    """Whatever bytes at the socket: the status of the answer, or how the line ended without one."""
    with socket.create_connection(address(server), timeout=patience_s) as line:
        try:
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            answer = line.recv(65536)
        except TimeoutError:
            return "no answer in time"
        except OSError:
            return "hung up"
        return int(answer.split()[1]) if answer.startswith(b"HTTP/1.") else "hung up"
