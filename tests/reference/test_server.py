"""llama.cpp's real server under the real supervisor: what it answers, whom it refuses, and that it never outlives us.

The faults that cannot be had from llama.cpp on demand are injected in tests/unit/test_serve_life.py.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from jupyter_client.manager import KernelManager
from serve_faults import wait_until

from quantlab.errors import QuantlabError, UsageError
from quantlab.serve.artifacts import gguf_for
from quantlab.serve.server import Server
from quantlab.serve.state import find, members, running

pytestmark = pytest.mark.usefixtures("llama_cpp", "own_cache")
MODEL = "tiny"
PROMPT = "One day a small fox found"


@pytest.fixture(scope="module")
def gguf_file(own_cache: None) -> Path:
    return gguf_for(MODEL).path


@pytest.fixture(scope="module")
def server(gguf_file: Path) -> Iterator[Server]:
    with Server(MODEL) as ready:
        yield ready


class TestAnswers:
    def test_the_same_text_as_llama_cpp_in_this_process(self, server, gguf_file, llama_cpp):
        llama = llama_cpp.Llama(str(gguf_file), n_ctx=512, n_threads=1, verbose=False)
        options = {"max_tokens": 24, "temperature": 0.0, "repeat_penalty": 1.0}
        expected = llama.create_completion(PROMPT, **options)["choices"][0]["text"]
        assert len(expected) > 20
        assert server.client.complete(PROMPT, **options) == expected
        assert "".join(server.client.complete(PROMPT, stream=True, **options)) == expected
        messages = [{"role": "user", "content": PROMPT}]
        expected = llama.create_chat_completion(messages, **options)["choices"][0]["message"]["content"]
        assert server.client.chat(PROMPT, **options) == server.ask(PROMPT, **options) == expected

    def test_pieces_come_while_the_answer_is_made(self, server):
        assert len(list(server.stream(PROMPT, max_tokens=8, temperature=0))) >= 4

    def test_its_name_and_not_its_path_is_told(self, server, gguf_file):
        assert server.client.models() == [find().model]
        assert str(gguf_file.parent) not in httpx.get(f"{server.url}/models", headers=key_of(server)).text

    def test_a_prompt_beyond_the_context(self, server):
        for ask in (server.ask, server.client.chat, server.client.complete):
            with pytest.raises(QuantlabError, match=r"exceed context window of 512|maximum context length is 512"):
                ask("fox " * 600)
        assert server.ask(PROMPT, max_tokens=4)

    def test_a_reader_who_leaves_does_not_disturb_the_next(self, server):
        answer = server.stream(PROMPT, max_tokens=400, temperature=1)
        next(answer)
        answer.close()
        assert server.ask(PROMPT, max_tokens=4)

    def test_readers_at_the_same_time_all_get_whole_answers(self, server):
        options = {"max_tokens": 24, "temperature": 0.0}
        expected, got = server.ask(PROMPT, **options), []
        threads = [threading.Thread(target=lambda: got.append(server.ask(PROMPT, **options))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert got == [expected] * 4


def key_of(server: Server) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.key}"}


class TestStrangers:
    def requests(self) -> list[tuple[str, str]]:
        """Every method and path of llama.cpp's server and of FastAPI itself, and some that do not exist."""
        from llama_cpp.server.app import router

        known = [(method, route.path) for route in router.routes for method in route.methods]
        assert len(known) >= 8
        pages = ["/", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/metrics", "/v1/../docs"]
        return known + [("GET", page) for page in pages] + [("OPTIONS", path) for _, path in known]

    @pytest.mark.parametrize(
        "given", [None, "", "Bearer", "Bearer wrong", "Basic KEY", "KEY", "Bearer KEYx", "Bearer KEY KEY"]
    )
    def test_nothing_is_answered_without_the_key(self, server, given):
        headers = {"X-API-Key": server.key} if given is None else {"Authorization": given.replace("KEY", server.key)}
        root = server.url.removesuffix("/v1")
        with httpx.Client(headers=headers, trust_env=False) as stranger:
            for method, path in self.requests():
                for body in ('{"prompt": "a", "messages": [], "input": "a", "tokens": []}', "{", ""):
                    response = stranger.request(method, root + path, content=body, params={"api_key": server.key})
                    assert response.status_code == 401, (method, path)
                    assert response.json() == {
                        "error": {"message": "the key is missing or wrong", "type": "unauthorized"}
                    }
                    assert not any("access-control" in name for name in response.headers)

    def test_a_web_socket_is_refused(self, server):
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        assert httpx.get(server.url.removesuffix("/v1"), headers=upgrade).status_code in (401, 403)

    def test_with_the_key_the_same_requests_are_let_in(self, server):
        root = server.url.removesuffix("/v1")
        for path in ("/v1/models", "/docs", "/openapi.json"):
            assert httpx.get(root + path, headers=key_of(server)).status_code == 200

    def test_it_listens_on_this_machine_only(self, server):
        listening = [
            connection.laddr
            for process in members(server._id)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert [address.ip for address in listening] == ["127.0.0.1"]
        assert server.url == f"http://127.0.0.1:{listening[0].port}/v1"

    def test_the_key_is_nowhere_to_be_read(self, server):
        server.ask(PROMPT, max_tokens=2)
        record = find()
        for process in [*members(server._id), *map(psutil.Process, (record.supervisor.pid, record.owner.pid))]:
            assert server.key not in " ".join(process.cmdline())
            assert server.key not in str(process.environ())
        httpx.get(f"{server.url}/models", params={"api_key": server.key})  # in the wrong place
        log = server.log.read_text()
        assert '"POST /v1/chat/completions HTTP/1.1" 200' in log
        assert '"GET /v1/models HTTP/1.1" 401' in log
        assert server.key not in log

    def test_a_second_server_beside_the_first(self, server, gguf_file):
        with Server(str(gguf_file), context=64) as second:
            assert second.url != server.url
            assert second.key != server.key
            assert second.ask(PROMPT, max_tokens=4)
            assert server.ask(PROMPT, max_tokens=4)
            assert httpx.get(f"{second.url}/models", headers=key_of(server)).status_code == 401
            assert len(running()) == 2
        assert [state.url for state in running()] == [server.url]


class TestStart:
    def test_what_the_environment_happens_to_hold_is_not_a_setting(self, gguf_file, monkeypatch):
        chance = {"SEED": "x", "CACHE": "/tmp", "MODEL": "/none", "HOST": "0.0.0.0", "PORT": "1", "API_KEY": "guessed"}
        for name, value in {**chance, "CONFIG_FILE": "/none", "N_CTX": "-1", "models": "[]"}.items():
            monkeypatch.setenv(name, value)
        with Server(str(gguf_file)) as server:
            assert server.ask(PROMPT, max_tokens=2)
            assert httpx.get(f"{server.url}/models", headers={"Authorization": "Bearer guessed"}).status_code == 401

    def test_a_model_is_converted_and_quantized_once(self, server):
        told: list[str] = []
        first = gguf_for(MODEL, "Q4_K_M", told.append)
        assert told == ["quantizing to q4_k_m with llama.cpp, once"]  # its bf16 form was there
        written = first.path.stat()
        assert gguf_for(MODEL, "q4_k_m", told.append) == first
        assert first.path.stat() == written
        assert len(told) == 1
        assert written.st_size < 0.4 * gguf_for(MODEL).path.stat().st_size
        with Server(MODEL, fmt="q4_k_m") as quantized:
            assert quantized.client.models()[0].endswith(":q4_k_m")
            assert quantized.ask(PROMPT, max_tokens=4)

    def test_it_goes_by_itself_when_its_supervisor_is_killed(self, gguf_file):
        with Server(str(gguf_file)) as server:
            os.kill(find(server.url).supervisor.pid, signal.SIGKILL)
            assert wait_until(lambda: not any(members(server._id)))

    def test_an_unknown_format(self):
        with pytest.raises(UsageError, match="unknown GGUF format 'q4_m'; did you mean 'q4_"):
            Server(MODEL, fmt="q4_m").start()

    def test_a_file_that_was_cut_off(self, gguf_file, tmp_path):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(gguf_file.read_bytes()[: gguf_file.stat().st_size // 2])
        with pytest.raises(QuantlabError, match=r"cut\.gguf is not a usable GGUF file: .* reaches beyond its end"):
            Server(str(cut)).start()
        assert not any(state.model == "cut" for state in running())


class Terminal:
    """`quantlab serve` as a learner starts it."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "quantlab.cli", "serve", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        assert self.process.stdout
        self.first_line = self.process.stdout.readline()
        found = re.search(r"at (http://127\.0\.0\.1:\d+/v1)$", self.first_line.strip())
        assert found, self.process.stderr.read() if self.process.stderr else ""
        self.state = find(found[1])

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        os.killpg(self.process.pid, number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, self.first_line + out, err


class TestCommands:
    def test_serve_and_ask(self, gguf_file, run_cli_process):
        terminal = Terminal(str(gguf_file))
        asked = run_cli_process("ask", PROMPT, "--server", terminal.state.url, "--max-tokens", 12, "--temperature", 0)
        assert (asked.code, asked.err) == (0, "")
        assert len(asked.out.split()) > 3
        code, out, err = terminal.end(signal.SIGINT)
        assert (code, err) == (0, "")
        assert "stopping" in out
        assert terminal.state.key not in out
        assert not any(members(terminal.state.id))
        assert not terminal.state.path.exists()

    def test_ctrl_c_in_ask_leaves_the_server_alone(self, server):
        ask = subprocess.Popen(
            [sys.executable, "-m", "quantlab.cli", "ask", PROMPT, "--max-tokens", "100000", "--temperature", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert ask.stdout
        assert ask.stdout.read(4)
        ask.send_signal(signal.SIGINT)
        _, err = ask.communicate(timeout=20)
        if ask.returncode != 0:  # else the model had come to its end before the signal came
            assert ask.returncode == 130
            assert err.decode().strip().startswith("quantlab: interrupted")
            assert err.strip().count(b"\n") == 0
        assert server.ask(PROMPT, max_tokens=2)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_serve_that_is_killed_leaves_nothing(self, gguf_file, number):
        terminal = Terminal(str(gguf_file))
        terminal.end(number)
        assert wait_until(lambda: not any(members(terminal.state.id)) and not terminal.state.path.exists())

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (("none.gguf",), 1, ["none.gguf", "check the path"]),
            (("no/such/folder",), 1, ["no/such/folder"]),
            ((MODEL, "--engine", "vlm"), 2, ["unknown engine 'vlm'"]),
            ((MODEL, "--host", "0.0.0.0"), 2, ["refusing to listen on 0.0.0.0"]),
            ((MODEL, "--context", "100000"), 2, ["was trained for 512 tokens"]),
            ((MODEL, "--port", "99999"), 2, ["--port"]),
        ],
    )
    def test_mistakes_are_one_sentence(self, run_cli, arguments, code, words):
        run_cli("serve", *arguments).must_say(code, *words)

    def test_a_port_in_use(self, server, run_cli):
        port = server.url.split(":")[2].removesuffix("/v1")
        run_cli("serve", MODEL, "--port", port).must_say(1, f"port {port}", "in use")


class TestNotebook:
    """A real Jupyter kernel, driven as JupyterLab drives it."""

    START = f"""
from quantlab.serve.server import Server
server = Server({MODEL!r}).start()
print("id", server._id)
"""

    @pytest.fixture
    def manager(self) -> Iterator[KernelManager]:
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(env=dict(os.environ))
        yield manager
        manager.shutdown_kernel(now=True)

    def run(self, manager: KernelManager, code: str, interrupt_on: str | None = None) -> str:
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        printed: list[str] = []

        def hear(message: dict) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])
                if interrupt_on and interrupt_on in "".join(printed):
                    manager.interrupt_kernel()
            elif message["msg_type"] == "error":
                printed.append(message["content"]["ename"])

        client.execute_interactive(code, timeout=60, output_hook=hear)
        client.stop_channels()
        return "".join(printed)

    def start(self, manager: KernelManager) -> str:
        found = re.search(r"id (\w+)", said := self.run(manager, self.START))
        assert found, said
        assert any(members(found[1]))
        return found[1]

    def test_it_survives_the_interrupt_button_and_ends_with_a_restart_or_a_crash(self, manager):
        first = self.start(manager)
        said = self.run(manager, "import time\nprint('now', flush=True)\ntime.sleep(60)", interrupt_on="now")
        assert "KeyboardInterrupt" in said
        assert "answer True" in self.run(manager, "print('answer', len(server.ask('Hello', max_tokens=8)) > 0)")

        manager.restart_kernel()
        assert wait_until(lambda: not any(members(first)))

        second = self.start(manager)
        record = next(state for state in running() if state.id == second)
        os.kill(record.owner.pid, signal.SIGKILL)
        assert wait_until(lambda: not any(members(second)) and not record.path.exists())
        assert all(state.id not in (first, second) for state in running())

    def test_it_ends_when_the_kernel_is_shut_down(self, manager):
        server_id = self.start(manager)
        manager.shutdown_kernel()
        assert wait_until(lambda: not any(members(server_id)))
        assert all(state.id != server_id for state in running())
