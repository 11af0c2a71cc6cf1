"""llama.cpp's OpenAI-compatible server (llama-cpp-python 0.3.36) as a process: `python -m` this, settings on stdin.

It is `llama_cpp.server.create_app` with what a server on a learner's machine needs besides:

- the key is asked for before anything else, on **every** path. By itself the server answers /docs and /openapi.json to
  anyone and tells every web page (CORS `*`) that it may call.
- a request is examined before the model hears of it (quantlab.serve.llama_cpp_requests): some would end the process.
- a reader who stops reading does not keep the others waiting: what was written for him waits in memory (`patient`).
- a prompt too long for the context is said in the stream too, instead of an answer without a word.
- the first line of stdin holds the settings, so the key is in no argument, file or environment; the rest of stdin is
  the lifeline: when it ends, the supervisor is gone, and the server goes too.
- it serves on a socket that it inherits, so no one else can take the port in between.
- settings come from that line only: llama_cpp.server would also read `SEED`, `CACHE`, ... from the environment.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import resource
import socket
import sys
from typing import Any

from quantlab.backends.llama_cpp_build import fault
from quantlab.serve.lifeline import end_with_stdin, first_line
from quantlab.serve.llama_cpp_requests import App, Receive, Scope, Send, checked, refuse

UNREAD = 64 * 2**20  # bytes that wait for a slow reader: 131,072 tokens of 250 bytes, as events, take half of it


def guarded(app: App, key: str) -> App:
    """`app`, but every request without `Authorization: Bearer KEY` is answered 401 before anything of it is read."""
    expected = f"Bearer {key}".encode()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or hmac.compare_digest(given, expected):
            await app(scope, receive, send)
        elif scope["type"] == "http":
            await refuse(send, 401, "the key is missing or wrong", (b"www-authenticate", b"Bearer"))
        else:
            await send({"type": "websocket.close", "code": 1008})

    return guard


def without_query(record: logging.LogRecord) -> bool:
    """Cut an access log's paths at the question mark: some clients put their key there."""
    if isinstance(record.args, tuple):
        record.args = tuple(str(part).partition("?")[0] if i == 2 else part for i, part in enumerate(record.args))
    return True


def make_app(settings: dict[str, Any]) -> App:
    """llama.cpp's server around one model, which is loaded here and now."""
    import llama_cpp
    from llama_cpp.server import app as server_app
    from llama_cpp.server.settings import ConfigFileSettings, ModelSettings, ServerSettings

    if (problem := fault(llama_cpp)) is not None:
        raise RuntimeError(problem)
    ours = {name.lower() for kind in (ModelSettings, ConfigFileSettings) for name in kind.model_fields}
    for name in [name for name in os.environ if name.lower() in ours | {"config_file"}]:
        del os.environ[name]
    model = ModelSettings(
        model=settings["path"],
        model_alias=settings["model"],
        n_ctx=settings["context"],
        n_threads=settings["threads"],
        n_threads_batch=settings["threads"],
        n_gpu_layers=-1,  # all of them, where this build of llama.cpp has a GPU backend; else none
        use_mlock=False,
        logits_all=False,  # only the last position is sampled; all of them would cost context x vocabulary x 4 bytes
        verbose=True,  # why a file cannot be loaded is said only so; it goes to the log
    )
    server = ServerSettings(api_key=settings["key"], interrupt_requests=False)  # a second reader waits for its turn
    server_app.get_event_publisher = outspoken(server_app.get_event_publisher)
    app: App = server_app.create_app(server_settings=server, model_settings=[model])
    return guarded(checked(app, settings["model"]), settings["key"])


def outspoken(publish: Any) -> Any:
    """The publisher of a stream, but what goes wrong is its last event; by itself the stream would only end."""

    async def publisher(*, inner_send_chan: Any, **rest: Any) -> None:
        async with inner_send_chan.clone() as last:
            try:
                await publish(inner_send_chan=inner_send_chan, **rest)
            except Exception as error:  # whatever it is; that the reader left is no Exception
                print(f"Exception: {error}", file=sys.stderr, flush=True)
                await last.send({"data": json.dumps({"error": {"message": str(error), "type": type(error).__name__}})})

    return publisher


def patient() -> Any:
    """uvicorn's protocol with room for a whole answer to each reader.

    llama.cpp writes one answer at a time. uvicorn stops a writer whose reader is 64 KiB behind, and one reader who
    never reads on would so stop the answers of all.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class Patient(base):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=UNREAD)

    return Patient


def main() -> None:
    """Load the model, then serve until SIGTERM or until stdin ends."""
    settings = json.loads(first_line())
    end_with_stdin()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the key, and the model
    os.environ["GGML_NO_BACKTRACE"] = "1"  # else it starts gdb when it fails, which takes seconds and memory
    import uvicorn

    config = uvicorn.Config(
        make_app(settings), http=patient(), timeout_graceful_shutdown=1, log_level="info", use_colors=False
    )
    logging.getLogger("uvicorn.access").addFilter(without_query)
    print("the model is loaded", file=sys.stderr, flush=True)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=settings["socket"])])


if __name__ == "__main__":
    main()
