"""Several servers of one model behind one address: `with Replicas("tiny", 2) as fleet: fleet.ask("Once upon a time")`.

            client, with the router's key
               |
            router          quantlab.serve.router, or nginx with router="nginx"
           /      \\
    replica 0    replica 1        each a `Server`: a whole copy of the model, a key of its own

The router is a `Server` too, whose engine loads no model: so it has a supervisor, a record that `quantlab ask` and
`quantlab loadtest` find, a log, and it dies with its owner, as all servers here do. It listens on this machine only.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.serve import nginx
from quantlab.serve.address import bind
from quantlab.serve.artifacts import Artifact
from quantlab.serve.engines import Engine, Job, Launch, default_threads, own_python
from quantlab.serve.server import Server
from quantlab.serve.state import ServerState, find

MOST = 64  # a machine has not the memory for more, and a mistyped number should not try


def _aiohttp_settings(job: Job, servers: Sequence[Server]) -> dict[str, Any]:
    replicas = [{"url": server.url, "key": server.key} for server in servers]
    return {"socket": job.socket, "key": job.key, "replicas": replicas}


def _nginx_settings(job: Job, servers: Sequence[Server]) -> dict[str, Any]:
    return {"socket": job.socket, "replicas": [server.url for server in servers]}


Settings = Callable[[Job, Sequence[Server]], dict[str, Any]]
# name -> its module, what it is told, what is missing, and whether the replicas must share its key
ROUTERS: dict[str, tuple[str, Settings, Callable[[], str | None], bool]] = {
    "quantlab": ("quantlab.serve.router", _aiohttp_settings, lambda: None, False),
    "nginx": ("quantlab.serve.nginx", _nginx_settings, nginx.missing, True),
}


class Replicas:
    """`count` servers of a model and a router before them, from `start()` (or `with`) to `stop()`.

    options are those of `Server`, for each replica; `port` and `host` are the router's. threads: of each replica.
    """

    def __init__(
        self,
        model: str,
        count: int = 2,
        *,
        router: str = "quantlab",
        port: int = 0,
        host: str = "127.0.0.1",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(count, int) or not 1 <= count <= MOST:
            raise UsageError(f"the number of replicas must be from 1 to {MOST}, got {count}")
        if router not in ROUTERS:
            raise unknown("router", router, ROUTERS)
        self.name, self._host, self._port = router, host, port
        module, settings, missing, shared = ROUTERS[router]
        each = threads or max(1, default_threads() // count)
        self.servers = [Server(model, threads=each, **options) for _ in range(count)]
        say = options.get("say", lambda _: None)
        self.router = Server(model, engine=self._engine(module, settings, missing), port=port, host=host, say=say)
        if shared:
            for server in self.servers:
                server.key = self.router.key

    def _engine(self, module: str, settings: Settings, missing: Callable[[], str | None]) -> Engine:
        """The router as an engine: what it serves is what its replicas serve."""

        def prepare(*_: object) -> Artifact:
            state = find(self.servers[0].url)
            return Artifact(Path(os.devnull), state.model, None, state.chat)

        def launch(job: Job) -> Launch:
            process = own_python(module)
            return Launch(process.argv, process.environment, json.dumps(settings(job, self.servers)))

        return Engine("router", missing, prepare, launch)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The router's address."""
        return self.router.url

    @property
    def key(self) -> str:
        """The router's key; with its own router the replicas have others."""
        return self.router.key

    def start(self) -> Self:
        """Start every replica, one after the other, then the router; a failure or an interruption leaves nothing."""
        if missing := self.router.engine.missing():
            raise QuantlabError(missing)
        bind(self._host, self._port).close()  # a wrong address is said before minutes of loading, not after
        try:
            for server in [*self.servers, self.router]:
                server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def wait(self) -> None:
        """Return when the router has ended by itself, with an error that says why; a dead replica is borne."""
        self.router.wait()

    def stop(self) -> None:
        """End the router, then the replicas; safe to call twice."""
        for server in [self.router, *self.servers]:
            server.stop()

    def ask(self, question: str, **options: Any) -> str:
        """As `Server.ask`, of whichever replica is free."""
        return self.router.ask(question, **options)

    def kill(self, number: int) -> ServerState:
        """SIGKILL one replica with all its processes, as a crash or a full memory would; its last record."""
        state = find(self.servers[number].url)
        os.killpg(state.server.pid, signal.SIGKILL)
        return state
