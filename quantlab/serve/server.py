"""A model server as an object: `with Server("tiny") as server: print(server.ask("Once upon a time"))`.

The server listens on this machine only, on a free port unless one is asked for, and answers nobody who does not hold
its random key. It is a process apart, watched by a supervisor (see quantlab.serve.supervisor): the interrupt button
of a notebook leaves it alone, and it ends with `stop()`, with the block, with this object, or with this process,
however that ends.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from quantlab.errors import QuantlabError, UsageError
from quantlab.serve import engines, logs, vllm_log
from quantlab.serve.address import bind
from quantlab.serve.answers import Line
from quantlab.serve.artifacts import Artifact, Say
from quantlab.serve.client import Client
from quantlab.serve.engines import Engine, Job, Launch
from quantlab.serve.expected import Expected, expected
from quantlab.serve.explain import explain
from quantlab.serve.places import servers_folder
from quantlab.serve.state import SUPERVISOR, Process, kill_members
from quantlab.serve.supervisor import STOP

DEFAULT_CONTEXT = 4096  # a model may be trained for 131,072 tokens, whose KV cache would fill the memory
SUPERVISOR_S = 20.0  # what a supervisor is given to come up, and to go beyond the server's own grace


class Server:
    """One model behind an OpenAI-compatible API, from `start()` (or `with`) to `stop()`.

    options: the engine's own, by its names, as `options={"kv_cache_dtype": "fp8"}` for vLLM; llama.cpp takes none.
    """

    def __init__(
        self,
        model: str,
        *,
        engine: str | Engine = "llama.cpp",
        fmt: str | None = None,
        context: int | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        threads: int | None = None,
        timeout_s: float = 300.0,
        options: Mapping[str, Any] | None = None,
        say: Say = lambda _: None,
    ) -> None:
        self.model = model
        self.engine = engines.engine(engine) if isinstance(engine, str) else engine
        self.url = ""
        self.key = secrets.token_urlsafe(32)
        self._id = secrets.token_hex(8)
        self._fmt, self._context, self._port, self._host = fmt, context, port, host
        self._threads, self._timeout_s, self._say = threads, timeout_s, say
        self._flags = self.engine.flags(options or {})
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        self._chat = True
        self._plan: Expected | None = None
        self._client: Client | None = None

    def __repr__(self) -> str:
        return f"Server({self.model!r}, {self.url or 'not started'})"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def id(self) -> str:
        """What every process of this server carries in its environment, and its record is named by."""
        return self._id

    @property
    def log(self) -> Path:
        """What the server and its supervisor print."""
        return servers_folder() / f"{self._id}.log"

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def client(self) -> Client:
        """A client that holds the key."""
        if self._client is None:
            raise QuantlabError(f"the server for {self.model} is not running; call start(), or use it in a with block")
        return self._client

    def start(self) -> Self:
        """Start the server and wait until it answers; an interruption or a failure leaves nothing behind."""
        if self.alive:
            return self
        if missing := self.engine.missing():
            raise QuantlabError(missing)
        try:
            with closing(bind(self._host, self._port)) as listener:  # from here on it is the server's alone
                artifact = self._launch(listener)
            self._client = Client(self.url, self.key)
            self._wait_until_ready(artifact.model)
        except BaseException:
            self.stop()
            raise
        return self

    def _launch(self, listener: socket.socket) -> Artifact:
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
        artifact = self.engine.prepare(self.model, self._fmt, self._say)
        self._chat = artifact.chat
        context = self._fitting_context(artifact)
        self._check_memory(artifact, context)
        job = Job(
            artifact=artifact,
            context=context,
            threads=self._threads or engines.default_threads(),
            socket=listener.fileno(),
            key=self.key,
            flags=self._flags,
        )
        self._start_supervisor(self.engine.launch(job), listener, artifact)
        return artifact

    def _check_memory(self, artifact: Artifact, context: int) -> None:
        """Say what is planned; vLLM holds its weights in memory, so what cannot fit is refused before it is started.

        (llama.cpp maps a file larger than the memory, and reads it from the disk again and again: slow, but it runs.)
        """
        self._plan = expected(artifact, context, self.engine.name)
        if self._plan is None:
            return
        self._say(self._plan.words())
        if self.engine.name == "vllm" and not self._plan.fits:
            raise QuantlabError(self._plan.refusal())

    @property
    def planned(self) -> str:
        """What was planned of its memory, in words; '' before it was started, and for what loads no model."""
        return self._plan.words() if self._plan else ""

    @property
    def meaning(self) -> str:
        """What vLLM's log says of this server, in words, against the plan; '' for other engines."""
        if self.engine.name != "vllm":
            return ""
        return vllm_log.read(self.log).words(self._plan.weights if self._plan else None)

    def _fitting_context(self, artifact: Artifact) -> int:
        window = artifact.window
        if self._context is None:
            return min(window or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
        if self._context < 1:
            raise UsageError(f"the context must be at least 1 token, got {self._context}")
        if window and self._context > window:
            raise UsageError(
                f"{artifact.model} was trained for {window} tokens and talks nonsense beyond; "
                f"choose a context of {window} or less, got {self._context}"
            )
        return self._context

    def _start_supervisor(self, launch: Launch, listener: socket.socket, artifact: Artifact) -> None:
        log = self.log
        process = engines.own_python(SUPERVISOR)
        with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log_file:
            supervisor = subprocess.Popen(
                process.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env={**os.environ, **process.environment},
                pass_fds=(listener.fileno(),),
                start_new_session=True,
            )
        self._supervisor = supervisor
        self._end = weakref.finalize(self, _end, supervisor, self._id, os.getpid(), self.engine.grace_s)
        job = {
            **asdict(launch),
            "socket": listener.fileno(),
            "grace_s": self.engine.grace_s,
            "owner": asdict(Process.of(os.getpid())),
            "state": {
                "id": self._id,
                "model": artifact.model,
                "engine": self.engine.name,
                "url": self.url,
                "key": self.key,
                "chat": artifact.chat,
                "log": str(log),
            },
        }
        assert supervisor.stdin
        assert supervisor.stdout
        with suppress(BrokenPipeError):  # what went wrong is in the log
            supervisor.stdin.write(json.dumps(job).encode() + b"\n")
            supervisor.stdin.flush()
        readable, _, _ = select.select([supervisor.stdout], [], [], SUPERVISOR_S)
        answer = json.loads(supervisor.stdout.readline() or "{}") if readable else {}
        if "pid" not in answer:
            raise QuantlabError(f"the server could not be started: {answer.get('error') or self._why()}")

    def _wait_until_ready(self, name: str) -> None:
        started, said = time.monotonic(), -1
        while (waited := time.monotonic() - started) < self._timeout_s:
            if int(waited) > said:  # an engine that opens its port late refuses many times a second
                said = int(waited)
                self._say(f"waiting for {self.engine.name} to load {name} ({said} s)")
            patience = min(2.0 if waited < 20 else 10.0, self._timeout_s - waited)
            with suppress(QuantlabError):  # the connection waits until the model is loaded, or breaks
                if name in self.client.models(patience):
                    return
            time.sleep(0.05)
            if not self.alive:
                raise QuantlabError(
                    f"{self.engine.name} ended before it could serve {name}: {self._why()} (log: {self.log})"
                )
        raise QuantlabError(
            f"{self.engine.name} was not ready to serve {name} after {self._timeout_s:g} s; "
            f"its log ends with: {self._why()}"
        )

    def _why(self) -> str:
        line = logs.why(logs.tail(self.log))
        meant = explain(line)
        return f"{line.rstrip('.')}. That is: {meant}" if meant else line or "it printed nothing"

    def ask(self, question: str, **options: Any) -> str:
        """The answer to a question; options as for `Client.chat` (max_tokens, temperature, seed, ...)."""
        return "".join(self.stream(question, **options))

    def stream(self, question: str, **options: Any) -> Generator[str]:
        """The answer piece by piece."""
        return Line(self.client, self._chat, self.log).stream(question, **options)

    def wait(self) -> None:
        """Return when the server has ended by itself, with an error that says why."""
        if self._supervisor is not None:
            self._supervisor.wait()
            raise QuantlabError(f"the server for {self.model} ended by itself: {self._why()} (log: {self.log})")

    def stop(self) -> None:
        """End the server and all its processes; safe to call twice."""
        self._end()
        if self._client is not None:
            self._client.close()
            self._client = None


def _end(supervisor: subprocess.Popen[bytes], server_id: str, owner_pid: int, grace_s: float) -> None:
    """Stop a supervisor and its server; in a process that was forked from the owner, do nothing."""
    if os.getpid() != owner_pid:
        return
    assert supervisor.stdin
    assert supervisor.stdout
    with suppress(BrokenPipeError):
        supervisor.stdin.write(STOP)  # said as well as closed: a forked child may hold the pipe open
        supervisor.stdin.close()
    supervisor.stdout.close()
    try:
        supervisor.wait(grace_s + SUPERVISOR_S)
    except subprocess.TimeoutExpired:
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
    kill_members(server_id)
