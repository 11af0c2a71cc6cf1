"""A small web server that answers as the Hugging Face Hub does, so that the real client can be led into every fault.

    GET /api/models/OWNER/NAME/revision/REV    which commit, and which files of which size
    GET /api/models/OWNER/NAME/tree/COMMIT     the same files, as the client asks once more
    GET /OWNER/NAME/resolve/COMMIT/FILE        one file

What a model is called decides what happens: `gated/model` has terms to accept, `cut/model` breaks off in its weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Serves model folders; `asked` lists every path that a client asked for."""

    daemon_threads = True

    def __init__(self, models: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models = models
        self.asked: list[str] = []
        self.healed = False  # then nothing breaks off any more

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        api = path.startswith("/api/models/")
        words = path.removeprefix("/api/models/").strip("/").split("/")
        repo, rest = "/".join(words[:2]), words[2:]
        folder = self.server.models.get(repo)
        if folder is None:
            return self._refuse(404, "RepoNotFound")
        if rest and rest[0] in ("revision", "resolve", "tree") and rest[1] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if repo.startswith("busy/"):
            return self._refuse(503, "")
        if api:
            return self._describe(repo, folder, tree=bool(rest) and rest[0] == "tree")
        if repo.startswith("gated/"):
            return self._refuse(403, "GatedRepo")
        return self._file(folder / "/".join(rest[2:]), cut=repo.startswith("cut/") and not self.server.healed)

    def _describe(self, repo: str, folder: Path, tree: bool) -> None:
        files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        if repo.startswith("huge/"):
            files = {name: size * 10**9 for name, size in files.items()}
        if tree:
            content: object = [
                {"type": "file", "path": name, "size": size, "oid": _etag(folder / name)}
                for name, size in files.items()
            ]
        else:
            siblings = [{"rfilename": name, "size": size} for name, size in files.items()]
            content = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path, cut: bool) -> None:
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT, "Content-Type": "application/octet-stream"}
        content = path.read_bytes()
        if cut and path.suffix == ".safetensors" and self.command == "GET":
            self.close_connection = True
            if "Range" in self.headers:  # the client asks for the rest, and the line is dead
                return
            headers["Content-Length"] = str(len(content))
            content = content[: len(content) // 2]
        self._send(200, content, headers)

    def _refuse(self, code: int, reason: str) -> None:
        self._send(code, b"{}", {"X-Error-Code": reason, "Content-Type": "application/json"})

    def _send(self, code: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serving(models: dict[str, Path]) -> Iterator[FakeHub]:
    """A hub with these models (id -> folder) for as long as the block runs."""
    hub = FakeHub(models)
    Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
