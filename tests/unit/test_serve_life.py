"""A server dies with its owner, whatever happens to either: real processes, faults injected."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from serve_faults import engine, wait_until

from quantlab.errors import QuantlabError, UsageError
from quantlab.serve.address import bind
from quantlab.serve.places import servers_folder
from quantlab.serve.server import Server
from quantlab.serve.state import ID_VARIABLE, Process, ServerState, find, members, read, running

HELPERS = Path(__file__).parent.parent
OWNER = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the tests, and so this process, ignore it
from serve_faults import engine
from quantlab.serve.server import Server
server = Server("demo", engine=engine({fault!r})).start()
print(server._id, flush=True)
{then}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path / "cache"))


def gone(server_id: str) -> bool:
    return not any(members(server_id)) and not list(servers_folder().glob(f"{server_id}.json"))


class Owner:
    """Another Python process that starts a server and then does `then`."""

    def __init__(self, then: str, fault: str = "none") -> None:
        code = OWNER.format(fault=fault, then=then)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HELPERS)},
            start_new_session=True,
            text=True,
        )
        assert self.process.stdout
        self.server_id = self.process.stdout.readline().strip()
        assert self.server_id, self.process.stderr.read() if self.process.stderr else ""
        assert any(members(self.server_id))

    def end(self, number: signal.Signals | None = None) -> None:
        if number is not None:
            os.killpg(self.process.pid, number)
        self.process.communicate("\n", timeout=20)


class TestTheOwnerGoes:
    def test_by_its_end(self) -> None:
        owner = Owner("input()")
        owner.end()
        assert owner.process.returncode == 0
        assert gone(owner.server_id)  # atexit has waited for it

    def test_without_any_chance_to_tidy_up(self) -> None:
        owner = Owner("input(); os._exit(0)")
        owner.end()
        assert wait_until(lambda: gone(owner.server_id))

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    def test_by_a_signal_to_its_process_group(self, number: signal.Signals) -> None:
        owner = Owner("time.sleep(600)", fault="family")
        assert len(list(members(owner.server_id))) == 2  # the server, and its child in a session of its own
        owner.end(number)
        assert wait_until(lambda: gone(owner.server_id))

    def test_while_the_server_ignores_the_polite_end(self) -> None:
        owner = Owner("time.sleep(600)", fault="stubborn")
        owner.end(signal.SIGKILL)
        assert wait_until(lambda: gone(owner.server_id))

    def test_while_a_forked_child_holds_its_pipes(self) -> None:
        owner = Owner("if os.fork() == 0:\n    os.setsid(); print(os.getpid(), flush=True)\ntime.sleep(60)")
        assert owner.process.stdout
        child = int(owner.process.stdout.readline())
        owner.process.kill()
        try:
            assert wait_until(lambda: gone(owner.server_id))
            assert psutil.pid_exists(child)
        finally:
            os.kill(child, signal.SIGKILL)


class TestTheOwnerStays:
    def test_an_interrupt_that_it_survives_leaves_the_server_alone(self) -> None:
        owner = Owner(
            "try: print('ready', flush=True); time.sleep(60)\n"
            "except KeyboardInterrupt: print(server.ask('?'), flush=True); time.sleep(60)"
        )
        assert owner.process.stdout
        assert owner.process.stdout.readline() == "ready\n"
        os.killpg(owner.process.pid, signal.SIGINT)
        assert owner.process.stdout.readline() == "Once upon a time\n"
        owner.end(signal.SIGKILL)
        assert wait_until(lambda: gone(owner.server_id))

    def test_a_forked_child_that_ends_does_not_end_the_server(self) -> None:
        with Server("demo", engine=engine()) as server:
            if (child := os.fork()) == 0:
                server._end()  # what atexit would do
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            assert server.ask("?") == "Once upon a time"

    def test_stop_leaves_nothing(self) -> None:
        server = Server("demo", engine=engine("family")).start()
        assert server.alive
        server.stop()
        server.stop()
        assert not server.alive
        assert gone(server._id)
        assert not list(servers_folder().iterdir())  # neither record nor log
        with pytest.raises(QuantlabError, match=r"call start\(\)"):
            server.ask("?")

    def test_a_server_can_be_started_again(self) -> None:
        server = Server("demo", engine=engine())
        for _ in 1, 2:
            with server:
                assert server.start() is server
                assert server.ask("?") == "Once upon a time"

    def test_a_server_that_ignores_the_polite_end_is_killed(self) -> None:
        server = Server("demo", engine=engine("stubborn", grace_s=0.5)).start()
        started = time.monotonic()
        server.stop()
        assert gone(server._id)
        assert 0.5 <= time.monotonic() - started < 5

    def test_an_object_that_nobody_holds_ends_its_server(self) -> None:
        server_id = Server("demo", engine=engine()).start()._id
        gc.collect()
        assert gone(server_id)

    def test_a_server_that_ends_by_itself_is_noticed(self) -> None:
        with Server("demo", engine=engine()) as server:
            for process in members(server._id):
                process.kill()
            with pytest.raises(QuantlabError, match="ended by itself"):
                server.wait()
            assert not server.alive
            assert server.log.exists()  # for whoever wants to know why

    def test_the_supervisor_may_be_killed_too(self) -> None:
        with Server("demo", engine=engine("stubborn", grace_s=0.5)) as server:
            os.kill(find().supervisor.pid, signal.SIGKILL)
            assert wait_until(lambda: not server.alive)
            assert any(members(server._id))  # this one ignores even that its lifeline has ended
            assert running() == []  # whoever looks next ends it
            assert gone(server._id)


class TestAStartThatFails:
    def fails(self, fault: str, **options: float) -> str:
        server = Server("demo", engine=engine(fault), **options)  # type: ignore[arg-type]
        with pytest.raises(QuantlabError) as caught:
            server.start()
        assert gone(server._id)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_crash_is_told_with_the_line_that_says_why(self) -> None:
        started = time.monotonic()
        said = self.fails("crash")
        assert time.monotonic() - started < 10  # far from the 300 s that loading may take
        assert said.startswith("faulty ended before it could serve demo: the weights are upside down (log: ")
        assert "RuntimeError" in Path(said.split("(log: ")[1].rstrip(")")).read_text()

    def test_a_server_that_is_never_ready(self) -> None:
        said = self.fails("never ready", timeout_s=1.0)
        assert said == "faulty was not ready to serve demo after 1 s; its log ends with: still thinking about layer 7"

    def test_a_program_that_is_not_there(self) -> None:
        assert "/no/such/program cannot be started (No such file or directory)" in self.fails("no such program")

    def test_an_interrupted_wait(self) -> None:
        def interrupt(text: str) -> None:
            raise KeyboardInterrupt

        server = Server("demo", engine=engine("never ready"), say=interrupt)
        with pytest.raises(KeyboardInterrupt):
            server.start()
        assert gone(server._id)

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(QuantlabError, match=f"port {port} of 127.0.0.1 is in use by another program; choose"):
                Server("demo", engine=engine(), port=port).start()

    def test_a_port_is_ours_from_the_moment_it_is_chosen(self) -> None:
        with bind("127.0.0.1", 0) as ours, pytest.raises(QuantlabError, match="in use"):
            bind("127.0.0.1", ours.getsockname()[1])

    def test_the_port_of_a_server_that_just_stopped_is_free(self) -> None:
        with Server("demo", engine=engine()) as first:
            first.ask("?")
            port = int(first.url.split(":")[2].split("/")[0])
        with Server("demo", engine=engine(), port=port) as second:
            assert second.url == first.url

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_a_port_that_does_not_exist(self, port: int) -> None:
        with pytest.raises(UsageError, match=f"there is no port {port}"):
            Server("demo", engine=engine(), port=port).start()

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
    def test_only_this_machine_is_served(self, host: str) -> None:
        with pytest.raises(UsageError, match="refusing to listen on"):
            Server("demo", engine=engine(), host=host).start()

    @pytest.mark.parametrize(("context", "said"), [(0, "at least 1 token"), (513, "was trained for 512 tokens")])
    def test_a_context_that_does_not_fit(self, context: int, said: str) -> None:
        with pytest.raises(UsageError, match=said):
            Server("demo", engine=engine(), context=context).start()

    def test_an_unknown_engine(self) -> None:
        with pytest.raises(UsageError, match=r"did you mean 'llama\.cpp'"):
            Server("demo", engine="lama.cpp")

    def test_a_cache_folder_that_cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path / "file"))
        with pytest.raises(QuantlabError, match="a part of the path is a file, not a folder"):
            Server("demo", engine=engine()).start()


def test_modules_beside_the_notebook_do_not_reach_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "psutil.py").write_text("raise SystemExit('a file of the learner')")
    monkeypatch.chdir(tmp_path)
    with Server("demo", engine=engine()) as server:
        assert server.alive


class TestRecords:
    def test_a_record_and_its_folder_are_private(self) -> None:
        with Server("demo", engine=engine()) as server:
            record = find("demo")
            assert stat.S_IMODE(record.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(Path(record.log).stat().st_mode) == 0o600
            assert stat.S_IMODE(record.path.parent.stat().st_mode) == 0o700
            assert record.key == server.key
            assert server.key not in repr(record) + repr(server) + repr(server.client)

    def test_a_folder_that_others_could_read_is_closed(self) -> None:
        servers_folder().chmod(0o755)
        assert stat.S_IMODE(servers_folder().stat().st_mode) == 0o700

    def test_a_folder_behind_a_link_is_refused(self, tmp_path: Path) -> None:
        servers_folder().rmdir()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "cache" / "servers").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(QuantlabError, match="is not a folder of yours"):
            servers_folder()

    def test_two_servers_and_their_names(self) -> None:
        with Server("first", engine=engine()) as first, Server("second", engine=engine()) as second:
            assert [state.model for state in running()] == ["second", "first"]
            assert find().url == second.url
            assert find("first").url == first.url == find(first.url).url == find(first.url.removesuffix("/v1")).url
            assert find(first._id).url == first.url
            with pytest.raises(UsageError, match="did you mean 'first'"):
                find("frist")
        with pytest.raises(QuantlabError, match="quantlab serve tiny"):
            find()

    def test_a_record_whose_numbers_belong_to_others_now_is_removed_and_nobody_is_hurt(self) -> None:
        me = Process.of(os.getpid())
        stranger = replace(me, started=me.started - 3600)
        state = ServerState("00", "demo", "faulty", "http://127.0.0.1:1/v1", "k", True, "", me, stranger, stranger)
        state.write()
        assert me.alive()
        assert not stranger.alive()
        assert running() == []
        assert not state.path.exists()

    def test_a_record_of_another_machine_is_left_alone(self) -> None:
        dead = Process(2**22 + 1, 0.0)
        state = ServerState(
            "00", "demo", "faulty", "http://127.0.0.1:1/v1", "k", True, "", dead, dead, dead, "elsewhere"
        )
        state.write()
        assert running() == []
        assert read(state.path) == state

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"owner": 1}), json.dumps({"owner": {"pid": 1}})])
    def test_a_damaged_record_is_no_server(self, text: str) -> None:
        (servers_folder() / "00.json").write_text(text)
        assert running() == []

    def test_old_logs_are_removed(self) -> None:
        old, new = servers_folder() / "old.log", servers_folder() / "new.log"
        old.touch()
        new.touch()
        os.utime(old, (0, 0))
        running()
        assert not old.exists()
        assert new.exists()


def test_a_launch_never_puts_the_key_where_others_can_read_it() -> None:
    with Server("demo", engine=engine("family")) as server:
        record = find()
        processes = [*members(server._id), psutil.Process(record.supervisor.pid)]
        assert len(processes) == 3
        for process in processes:
            assert server.key not in " ".join(process.cmdline())
            assert server.key not in str(process.environ())
        assert server.key not in server.log.read_text()
        assert server.key not in json.dumps(asdict(record.server))


# ------------------------------------------------------------------------------------------- what is left over
def test_reclaim_ends_what_no_supervisor_watches_and_nothing_else(run_cli) -> None:
    left = subprocess.Popen(["sleep", "300"], env={**os.environ, ID_VARIABLE: "0123456789abcdef"})
    try:
        with Server("demo", engine=engine("family")) as server:
            assert "sleep" in run_cli("serve", "--reclaim").out
            assert not psutil.pid_exists(left.pid)
            assert server.alive
            assert len(list(members(server._id))) > 1
            assert "nothing was left over" in run_cli("serve", "--reclaim").out
    finally:
        left.kill()


def test_list_shows_the_servers_that_run_and_their_memory(run_cli) -> None:
    assert "no server of yours is running" in run_cli("serve", "--list").out
    with Server("demo", engine=engine()) as server:
        line = run_cli("serve", "--list").out
        assert f"demo  faulty  {server.url}" in line
        assert re.search(r" [1-9][\d,]* MiB  owner ", line)
        assert server.key not in line
    run_cli("serve").must_say(2, "MODEL")
    run_cli("serve", "tiny", "--list").must_say(2, "one of them")
