"""A small real HTTP server that goes wrong on purpose, and the engine that runs it under the real supervisor.

python serve_faults.py      one line of JSON on stdin: {"fault", "socket", "key", "model"}
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from quantlab.serve.artifacts import Artifact
from quantlab.serve.engines import Engine, Job, Launch

FAULTS = (
    "none",
    "never ready",
    "crash",
    "no such program",
    "stubborn",
    "family",
    "cut off",
    "look above",
    "not openai",
    "silent",
)


def engine(fault: str = "none", grace_s: float = 2.0) -> Engine:
    """An engine whose server has one fault."""
    assert fault in FAULTS

    def launch(job: Job) -> Launch:
        settings = {"fault": fault, "socket": job.socket, "key": job.key, "model": job.artifact.model}
        program = "/no/such/program" if fault == "no such program" else sys.executable
        return Launch([program, "-u", __file__], {}, json.dumps(settings))

    return Engine(
        "faulty", lambda: None, lambda model, fmt, say: Artifact(Path(model), model, 512, True), launch, grace_s
    )


def wait_until(true: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Handler(BaseHTTPRequestHandler):
    settings: dict[str, str]

    def log_message(self, *_: object) -> None:
        pass

    def send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_request(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {self.settings['key']}":
            self.send(401, {"error": {"message": "no"}})
        elif self.path == "/v1/models":
            self.send(200, {"data": [{"id": self.settings["model"]}]})
        elif self.settings["fault"] == "not openai":
            self.send(200, {"hello": "world"})
        elif self.settings["fault"] == "silent":
            time.sleep(60)
        else:
            self.stream()

    do_GET = do_POST = handle_request  # noqa: N815

    def stream(self) -> None:
        self.send_response(200)
        self.end_headers()
        for word in ("Once", " upon", " a", " time"):
            self.wfile.write(f"data: {json.dumps({'choices': [{'delta': {'content': word}}]})}\n\n".encode())
            self.wfile.flush()
        if self.settings["fault"] == "cut off":
            print("Traceback\n  File x\nMemoryError: 3 pages short", flush=True)
        elif self.settings["fault"] == "look above":  # as vLLM does when the process that computes has died
            print("(Worker pid=7) ERROR 11-26 02:21:31 [a.py:1] RuntimeError: no such kernel", flush=True)
            error = {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause."}
            self.wfile.write(f"data: {json.dumps({'error': error})}\n\n".encode())
        else:
            self.wfile.write(b"data: [DONE]\n\n")


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    fault = settings["fault"]
    if fault == "crash":
        print(
            "loading\nTraceback (most recent call last):\n  File x\nRuntimeError: the weights are upside down",
            flush=True,
        )
        sys.exit(3)
    if fault == "never ready":
        print("still thinking about layer 7", flush=True)
        time.sleep(600)
    if fault == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    if fault == "family":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Handler.settings = settings
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=settings["socket"])
    server.server_activate()
    server.serve_forever()


if __name__ == "__main__":
    main()
