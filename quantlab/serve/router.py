"""One address in front of several servers of the same model: `python -m` this, settings on stdin.

A replica is a whole copy of the model. A router gives each request to the replica with the fewest on their way, and
when a replica dies it must do right by three kinds of request:

    not yet sent, or sent and no piece of the answer passed on    ask another replica: the client notices nothing
    a part of the answer passed on                                cannot be mended: break the connection off, so that
                                                                  nobody takes the part for the whole
    no replica left                                               502, at once, with a reason

Asking twice is safe because generating stores nothing; nginx, which cannot know that, asks a POST again only where it
is told so (`proxy_next_upstream ... non_idempotent`, nginx.org/en/docs/http/ngx_http_proxy_module.html). A request that
only takes long is never asked twice: a slow fleet would then get every request twice. A replica that failed rests two
seconds. Only three paths of the OpenAI protocol are passed on (`/metrics`, `/docs` and the rest stay inside), and
none, not even a wrong one, answers without the router's key. The replicas' own keys never leave this process.

quantlab.serve.nginx does the same with nginx; quantlab.serve.replicas starts either. Source: aiohttp 3.14.
"""

from __future__ import annotations

import hmac
import itertools
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from quantlab.serve.address import is_loopback
from quantlab.serve.lifeline import end_with_stdin, first_line

PATHS = (("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"))
REST_S = 2.0  # how long a replica that failed is asked only when all others failed too
CONNECT_S = 2.0  # to a replica on this machine
SILENCE_S = 600.0  # the longest wait for the next piece of an answer, as the load generator's
LARGEST = 32 * 2**20  # bytes of a question: it is kept until an answer begins, to be asked again

log = logging.getLogger("quantlab.router")


@dataclass
class Replica:
    """One server: where it is, what it wants to hear, and how it does."""

    url: str  # ends in /v1
    key: str = field(repr=False)
    flying: int = 0  # requests on their way
    rests_until: float = 0.0
    turn: int = 0  # when it was asked last


class Pool:
    """Which replica to ask next."""

    def __init__(self, replicas: Sequence[Replica], clock: Callable[[], float] = time.monotonic) -> None:
        self.replicas, self._clock, self._turns = list(replicas), clock, itertools.count(1)

    def best(self, among: Sequence[Replica]) -> Replica:
        """The one with the fewest on their way, in turn where equal; one that rests only where all do."""
        now = self._clock()
        return min(among, key=lambda one: (one.rests_until > now, one.flying, one.turn))

    @contextmanager
    def asked(self, replica: Replica) -> Iterator[None]:
        """Counts a request while it is on its way."""
        replica.flying, replica.turn = replica.flying + 1, next(self._turns)
        try:
            yield
        finally:
            replica.flying -= 1

    def failed(self, replica: Replica, what: str, error: Exception) -> None:
        """It broke off or was not there: let it rest."""
        log.warning("%s %s (%s)", replica.url, what, type(error).__name__)
        replica.rests_until = self._clock() + REST_S


def refusal(status: int, message: str) -> web.Response:
    """An error as the OpenAI protocol has it."""
    return web.json_response({"error": {"message": message, "type": "router"}}, status=status)


def guard(key: str) -> web.Application:
    """An application that answers 401 to whoever does not hold the key, on every path and whatever the method."""
    expected = f"Bearer {key}".encode()

    @web.middleware
    async def check(request: web.Request, handler: Callable[[web.Request], object]) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, expected):
            answer = refusal(401, "the key is missing or wrong")
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        return await handler(request)  # type: ignore[misc, no-any-return]

    return web.Application(middlewares=[check], client_max_size=LARGEST)


def make_app(replicas: Sequence[Replica], key: str) -> web.Application:
    """The router as an application."""
    app, router = guard(key), Router(Pool(replicas))
    for method, path in PATHS:
        app.router.add_route(method, path, router.answer)
    app.cleanup_ctx.append(router.connected)
    return app


class Router:
    """Passes requests on."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._http: aiohttp.ClientSession | None = None

    async def connected(self, _: web.Application) -> AsyncIterator[None]:
        """Connections to the replicas: a fresh one for each request, so that none is found closed."""
        patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        fresh = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=fresh, timeout=patience, auto_decompress=False) as self._http:
            yield

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Ask one replica after the other until one begins to answer."""
        body, left = await request.read(), list(self.pool.replicas)
        while left:
            left.remove(replica := self.pool.best(left))
            with self.pool.asked(replica):
                if (answer := await self._ask(request, body, replica)) is not None:
                    return answer
        return refusal(502, f"none of the {len(self.pool.replicas)} replicas can be reached")

    async def _ask(self, request: web.Request, body: bytes, replica: Replica) -> web.StreamResponse | None:
        """Pass one request on; None where the replica failed and the client has been told nothing yet."""
        assert self._http is not None
        headers = {"Authorization": f"Bearer {replica.key}", "Accept-Encoding": "identity"}
        headers |= {name: request.headers[name] for name in ("Content-Type", "Accept") if name in request.headers}
        url = replica.url.removesuffix("/v1") + request.path
        async with AsyncExitStack() as connection:
            try:
                asking = self._http.request(request.method, url, data=body, headers=headers, allow_redirects=False)
                heard = await connection.enter_async_context(asking)
                first = await heard.content.readany()
            except aiohttp.SocketTimeoutError:
                return refusal(504, f"the replica said nothing for {SILENCE_S:g} seconds")
            except (aiohttp.ClientError, ConnectionError) as error:
                self.pool.failed(replica, "failed before it answered", error)
                return None
            return await self._pass_on(heard, first, request, replica)

    async def _pass_on(
        self, heard: aiohttp.ClientResponse, piece: bytes, request: web.Request, replica: Replica
    ) -> web.StreamResponse:
        """Each piece as it comes; where they break off, so does our answer."""
        said = web.StreamResponse(status=heard.status)
        said.content_type = heard.content_type
        await said.prepare(request)
        while piece:
            await said.write(piece)
            try:
                piece = await heard.content.readany()
            except (aiohttp.ClientError, ConnectionError) as error:
                self.pool.failed(replica, "broke off an answer", error)
                if request.transport is not None:
                    request.transport.abort()
                break
        return said


def main() -> None:
    """Route until SIGTERM or until stdin ends."""
    settings = json.loads(first_line())
    end_with_stdin()
    logging.basicConfig(format="%(name)s: %(message)s")
    listener = socket.socket(fileno=settings["socket"])
    if not is_loopback(listener.getsockname()[0]):
        raise SystemExit("the router listens on this machine only")
    app = make_app([Replica(**one) for one in settings["replicas"]], settings["key"])
    web.run_app(app, sock=listener, print=None, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)


if __name__ == "__main__":
    main()
