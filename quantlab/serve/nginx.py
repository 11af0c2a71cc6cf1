"""nginx in front of several servers of the same model: its configuration, and the process that runs it.

The rules are those of quantlab.serve.router, in nginx's words (nginx 1.22; nginx.org/en/docs/http/):

    least_conn                      the replica with the fewest requests on their way        ngx_http_upstream_module
    max_fails=1 fail_timeout=2s     one that failed rests two seconds
    proxy_next_upstream error       ask another where the connection failed before the       ngx_http_proxy_module
        non_idempotent              first byte for the client, for a POST too: generating stores nothing.
                                    `timeout` is left out: a slow fleet must not get every request twice
    proxy_buffering off             each token as it comes
    location = PATH                 three paths and no other; /metrics and /docs stay inside

nginx does not read the key: it passes `Authorization` on, and the replicas, which share one key, check it. So no key
stands in a file. One difference is left: nginx tells the client "200" when a replica has sent its head, the router of
this course only when the first piece of the answer is there; a replica that dies in between costs nginx's client an
error.

nginx inherits the listening socket as it does when it is upgraded (the environment's NGINX="3;"; without its master
process 1.22 crashes on that). It overwrites its environment, by which quantlab.serve.state would find what is left of a
server, so on Linux the kernel is asked to end it with the process that started it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from quantlab.errors import UsageError
from quantlab.serve.address import is_loopback
from quantlab.serve.lifeline import end_with_stdin, first_line
from quantlab.serve.router import CONNECT_S, LARGEST, PATHS, REST_S, SILENCE_S

PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")  # where nginx is, and the PATH often does not look


def program() -> str | None:
    """The nginx of this machine: QUANTLAB_NGINX names it, else the PATH and the usual places are looked through."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *PLACES])
    return shutil.which(os.environ.get("QUANTLAB_NGINX", "nginx"), path=path)


def missing() -> str | None:
    """None, or the sentence that says how to get nginx."""
    if program():
        return None
    return (
        "nginx is not installed here; get it with: apt-get install nginx-light (Debian, Ubuntu) or brew install nginx"
    )


def configuration(replicas: Sequence[str], listen: str) -> str:
    """nginx.conf for these replicas (`http://127.0.0.1:9001/v1`), listening at `127.0.0.1:8000`.

    >>> "server 127.0.0.1:9001" in configuration(["http://127.0.0.1:9001/v1"], "127.0.0.1:8000")
    True
    """
    host = urlsplit(f"//{listen}").hostname
    if not host or not is_loopback(host):
        raise UsageError(f"refusing to listen on {listen}: whoever reaches this machine would reach the model")
    rests = f"max_fails=1 fail_timeout={REST_S:g}s"
    servers = "\n".join(f"        server {urlsplit(url).netloc} {rests};" for url in replicas)
    paths = "\n".join(_location(method, path) for method, path in PATHS)
    return f"""\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size {LARGEST};
    upstream replicas {{
        least_conn;
{servers}
    }}
    server {{
        listen {listen};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffering off;
        proxy_connect_timeout {CONNECT_S:g}s;
        proxy_read_timeout {SILENCE_S:g}s;
        proxy_next_upstream error non_idempotent;
        proxy_next_upstream_tries {len(replicas)};
{paths}
        location / {{ return 404; }}
    }}
}}
"""


def _location(method: str, path: str) -> str:
    """One path, and its one method; the path that the replica sees is this one, whatever the client wrote."""
    return f"        location = {path} {{ limit_except {method} {{ deny all; }} proxy_pass http://replicas{path}; }}"


def end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the parent dies, kill -9 included (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def main() -> None:
    """Run nginx, its files in a private folder, until SIGTERM or until stdin ends; leave nothing."""
    settings = json.loads(first_line())
    listener = socket.socket(fileno=settings["socket"])
    host, port = listener.getsockname()[:2]
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    nginx = program()
    assert nginx, "missing() was asked before"
    with tempfile.TemporaryDirectory(prefix="quantlab-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # where root starts nginx, its worker is another user; there is no secret in here
        (folder / "nginx.conf").write_text(configuration(settings["replicas"], listen), encoding="utf-8")
        process = subprocess.Popen(
            [nginx, "-e", "stderr", "-p", str(folder), "-c", "nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=(listener.fileno(),),
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )

        def end(*_: int | FrameType | None) -> None:
            process.terminate()

        signal.signal(signal.SIGTERM, end)
        end_with_stdin()
        listener.close()
        code = process.wait()
    sys.exit(f"nginx ended with code {code}" if code > 0 else 0)


if __name__ == "__main__":
    main()
