"""The client against a real HTTP server: what it returns, and the sentence for everything that goes wrong."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_faults import engine

from quantlab.errors import QuantlabError, UsageError
from quantlab.serve import logs
from quantlab.serve.address import api_url, is_loopback
from quantlab.serve.client import Client, CutOffError
from quantlab.serve.server import Server


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def server(_own_cache: None) -> Iterator[Server]:
    with Server("demo", engine=engine()) as running:
        yield running


class Answering:
    """An HTTP server that gives every request the same answer, byte for byte, and keeps what it was asked."""

    def __init__(self, status: int, body: bytes) -> None:
        asked: list[tuple[str, dict[str, str]]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append((self.path, dict(self.headers)))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.asked = asked
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self) -> Answering:
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()


def event(piece: object) -> bytes:
    return f"data: {json.dumps(piece)}\n\n".encode()


def test_a_stream_comes_piece_by_piece(server):
    assert list(server.stream("?")) == ["Once", " upon", " a", " time"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"choices": [{"message": {"content": "hello"}}]}, "hello"),
        ({"choices": [{"text": "hello"}]}, "hello"),
        ({"choices": [{"message": {"content": None}}]}, ""),
        ({"choices": []}, ""),
    ],
)
def test_a_whole_answer(answer, text):
    with Answering(200, json.dumps(answer).encode()) as at, Client(at.url) as client:
        assert client.chat("?") == client.complete("?") == text
        assert [path for path, _ in at.asked] == ["/v1/chat/completions", "/v1/completions"]


def test_a_stream_of_chat_pieces_and_comments():
    first = {"choices": [{"delta": {"role": "assistant"}}]}
    said = {"choices": [{"delta": {"content": "né"}}]}
    body = b": ping\n\n" + event(first) + event(said) + event({"choices": []}) + b"data: [DONE]\n\n" + event(said)
    with Answering(200, body) as at, Client(at.url) as client:
        assert list(client.chat([{"role": "user", "content": "?"}], stream=True)) == ["né"]


def test_a_stream_without_its_end_does_not_look_complete():
    with Answering(200, event({"choices": [{"text": "half"}]})) as at, Client(at.url) as client:
        answer = client.complete("?", stream=True)
        assert next(answer) == "half"
        with pytest.raises(CutOffError, match="broke off its answer"):
            next(answer)


def test_what_the_log_says_is_told_when_an_answer_breaks_off():
    with Server("demo", engine=engine("cut off")) as server:
        for _ in 1, 2:
            with pytest.raises(CutOffError, match=r"broke off its answer: 3 pages short$"):
                server.ask("?")


def test_a_server_that_sends_its_reader_to_the_log():
    said = pytest.raises(CutOffError, match=r"^the server broke off its answer: no such kernel$")
    with Server("demo", engine=engine("look above")) as server, said:
        server.ask("?")


def test_a_server_that_dies_in_the_middle(server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}")
        half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30\r\n" + event({"choices": [{"text": "half"}]})

        def answer() -> None:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(half)
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(CutOffError, match="broke off"):
            "".join(client.complete("?", stream=True))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"", "refuses the key; set QUANTLAB_API_KEY"),
        (400, b'{"error": {"message": "too long."}}', "answers 400: too long$"),
        (422, b'{"detail": "no such field"}', "answers 422: no such field"),
        (500, b"<html>", "answers 500: Internal Server Error"),
        (200, b"<html>", "not as an OpenAI-compatible server does"),
        (200, b'{"hello": 1}', "not as an OpenAI-compatible server does"),
        (200, b"[]", "not as an OpenAI-compatible server does"),
        (200, b'{"error": {"message": "out of memory"}}', "the server reports: out of memory"),
    ],
)
def test_every_failure_is_a_sentence(status, body, said):
    with Answering(status, body) as at, Client(at.url) as client:
        for ask in (client.chat, client.complete):
            with pytest.raises(QuantlabError, match=said):
                ask("?")
        if status >= 400:
            with pytest.raises(QuantlabError, match=said):
                list(client.chat("?", stream=True))


def test_an_error_inside_a_stream():
    with (
        Answering(200, event({"error": {"message": "too long"}})) as at,
        Client(at.url) as client,
        pytest.raises(QuantlabError, match="the server reports: too long"),
    ):
        list(client.chat("?", stream=True))


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # its port is taken, but it does not listen
        with pytest.raises(QuantlabError, match=r"no server answers at .* start one with: quantlab serve tiny"):
            Client(f"http://127.0.0.1:{free.getsockname()[1]}").models()


def test_silence_is_not_borne_for_ever():
    with Server("demo", engine=engine("silent")) as server, Client(server.url, server.key, timeout_s=0.3) as client:
        started = time.monotonic()
        with pytest.raises(QuantlabError, match=r"was silent for 0\.3 s"):
            client.chat("?")
        assert time.monotonic() - started < 5


def test_the_key_of_this_machine_s_server_goes_to_no_proxy(server, monkeypatch):
    with Answering(200, b"{}") as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with Client(server.url, server.key) as client:
            assert client.models() == ["demo"]
        assert proxy.asked == []


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://a", "http://", "http://[::1", "http://a:99999"])
def test_an_address_that_is_none(url):
    with pytest.raises(UsageError, match="is no server address; write it as http://"):
        api_url(url)


@pytest.mark.parametrize(
    ("host", "ours"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "8.8.8.8", "localhost.evil.example", "")],
)
def test_loopback(host, ours):
    assert is_loopback(host) is ours


VLLM_DIED = """\
(Worker pid=7) ERROR 11-26 02:21:31 [multiproc_executor.py:1063] Traceback (most recent call last):
(Worker pid=7) ERROR 11-26 02:21:31 [multiproc_executor.py:1063]     torch.ops._C.cpu_gemm_wna16(
(Worker pid=7) ERROR 11-26 02:21:31 [multiproc_executor.py:1063] AttributeError: '_OpNamespace' has no attribute
(EngineCore pid=6) ERROR 11-26 02:21:31 [core.py:1512] EngineCore encountered a fatal error.
(EngineCore pid=6) ERROR 11-26 02:21:31 [core.py:1512] RuntimeError: Worker failed with error ''_OpNamespace' '_C' \
object has no attribute 'cpu_gemm_wna16'', please check the stack trace above for the root cause
(EngineCore pid=6) INFO 11-26 02:21:31 [multiproc_executor.py:479] [shutdown] Executor: waiting for worker exit count=1
(APIServer pid=5) ERROR 11-26 02:21:31 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: EngineCore \
encountered an issue. See stack trace (above) for the root cause.
INFO:     Shutting down
"""  # as vLLM 0.32 writes it


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        ("loading\nloading more\n\n", "loading more"),
        ("ok\nfailed to open the file\nbye", "failed to open the file"),
        ("Traceback (most recent call last):\n  raise X\nValueError: no weights.\nINFO: bye", "no weights"),
        ("RuntimeError: first\nValueError: second", "second"),
        (
            "llama_model_load: error loading model: tensor 'a' is not within the file bounds\n"
            "Traceback (most recent call last):\nValueError: Failed to load model from file: /x.gguf",
            "tensor 'a' is not within the file bounds",
        ),
        ("\x1b[31mERROR\x1b[0m: [Errno 98] error while attempting: address already in use",
         "[Errno 98] error while attempting: address already in use"),
        ("ValueError: Requested tokens (9) exceed context window of 8",
         "Requested tokens (9) exceed context window of 8"),
        (VLLM_DIED, "'_OpNamespace' '_C' object has no attribute 'cpu_gemm_wna16'"),
        ("(Worker pid=7) ERROR 11-26 02:21:31 [multiproc_executor.py:1063] ValueError: no such scale\n"
         "(APIServer pid=5) RuntimeError: Engine core initialization failed. See root cause above.",
         "no such scale"),
    ],
)  # fmt: skip
def test_the_line_that_says_why(tmp_path: Path, log: str, said: str):
    (tmp_path / "log").write_text(log)
    assert logs.why(logs.tail(tmp_path / "log")) == said


def test_the_end_of_a_long_log_is_read_and_what_was_there_before_is_not(tmp_path: Path):
    log = tmp_path / "log"
    assert logs.tail(log) == []
    log.write_text("x\n" * 200_000 + "ValueError: old\n")
    before = logs.size(log)
    assert logs.why(logs.tail(log)) == "old"
    assert len(logs.tail(log)) < 100_000
    with log.open("a") as file:
        file.write("all is well\n")
    assert logs.why(logs.tail(log, since=before)) == "all is well"


class TestAsk:
    def test_the_answer_goes_to_stdout(self, server, run_cli):
        ended = run_cli("ask", "?", "--max-tokens", 4)
        assert (ended.code, ended.out, ended.err) == (0, "Once upon a time\n", "")
        for name in ("demo", server.url, server.url.removesuffix("/v1") + "/"):
            assert run_cli("ask", "?", "--server", name).out == "Once upon a time\n"

    def test_no_server(self, run_cli, monkeypatch, tmp_path):
        monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path))
        run_cli("ask", "?").must_say(1, "no server is running", "quantlab serve tiny")

    def test_an_unknown_server(self, server, run_cli):
        run_cli("ask", "?", "--server", "dem").must_say(2, "did you mean 'demo'")

    def test_another_s_server_needs_the_key_from_the_environment(self, server, run_cli, monkeypatch, tmp_path):
        monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path))  # a home that knows nothing of this server
        run_cli("ask", "?", "--server", server.url).must_say(1, "refuses the key", "QUANTLAB_API_KEY")
        monkeypatch.setenv("QUANTLAB_API_KEY", server.key)
        assert run_cli("ask", "?", "--server", server.url).out == "Once upon a time\n"

    @pytest.mark.parametrize("option", [("--max-tokens", 0), ("--temperature", 3), ("--temperature", "warm")])
    def test_a_value_out_of_range(self, run_cli, option):
        run_cli("ask", "?", *option).must_say(2, option[0])
