"""Two real llama.cpp servers behind a real router: one is killed under load, and every request is accounted for.

Faults that a real server does not have on demand are in tests/unit/test_router.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from serve_faults import engine, wait_until

from quantlab.errors import QuantlabError, UsageError
from quantlab.models.samples import openings
from quantlab.serve import nginx
from quantlab.serve.failover import Failover, kill_one
from quantlab.serve.load import Load, Report
from quantlab.serve.load.request import ENDED, Sample
from quantlab.serve.places import servers_folder
from quantlab.serve.replicas import ROUTERS, Replicas
from quantlab.serve.state import find, members, running

EACH = [
    "quantlab",
    pytest.param("nginx", marks=pytest.mark.skipif(nginx.program() is None, reason=str(nginx.missing()))),
]
OWNER = """
import sys, time
from serve_faults import engine
from quantlab.serve.replicas import Replicas
fleet = Replicas("demo", 2, router=sys.argv[1], engine=engine()).start()
print(*(server._id for server in [*fleet.servers, fleet.router]), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=EACH)
def fleet(request: pytest.FixtureRequest, llama_cpp: ModuleType) -> Iterator[Replicas]:
    with Replicas("tiny", 2, fmt="q4_k_m", router=request.param) as found:
        yield found


class TestBehindOneAddress:
    def test_it_answers_like_one_server(self, fleet: Replicas) -> None:
        options = {"max_tokens": 12, "temperature": 0.0}
        alone = fleet.servers[0].ask("Once upon a time", **options)
        assert len(alone) > 10
        assert fleet.ask("Once upon a time", **options) == alone
        assert find(fleet.url).model == find(fleet.servers[0].url).model
        assert {state.url for state in running()} == {fleet.url, *(server.url for server in fleet.servers)}

    @pytest.mark.parametrize(
        "path", ["/v1/models", "/v1/completions", "/v1/chat/completions", "/docs", "/openapi.json", "/"]
    )
    def test_nobody_gets_anything_without_the_key(self, fleet: Replicas, path: str) -> None:
        root, body = fleet.url.removesuffix("/v1"), {"prompt": "Once", "messages": [], "max_tokens": 1}
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": fleet.key}):
            for found in (httpx.get(root + path, headers=headers), httpx.post(root + path, headers=headers, json=body)):
                assert found.status_code in (401, 403, 404, 405), (path, headers, found.text)
                assert fleet.key not in found.text

    def test_the_keys_of_the_replicas_stay_inside(self, fleet: Replicas) -> None:
        keys = {server.key for server in fleet.servers}
        if fleet.name == "nginx":
            assert keys == {fleet.key}  # one for all: nginx passes it on
            return
        assert len(keys | {fleet.key}) == 3
        for key in keys:
            assert httpx.get(f"{fleet.url}/models", headers={"Authorization": f"Bearer {key}"}).status_code == 401
        with pytest.raises(QuantlabError):
            kill_one(fleet, ["x"], Load(1, rate=1.0))


class TestOneIsKilled:
    def test_no_accepted_request_is_lost_without_an_error_that_the_client_sees(
        self, fleet: Replicas, capsys: pytest.CaptureFixture[str]
    ) -> None:
        load = Load(48, rate=5.0, process="burst")  # eight at once: the replica dies with requests on their way
        killed = find(fleet.servers[0].url)
        found = kill_one(fleet, openings(), load, max_tokens=24, after=18, grace_s=1.0)
        with capsys.disabled():
            print(f"\n{found.words()}")
        assert found.report.sent == load.requests == found.report.answered + sum(found.errors.values())
        assert found.lost == 0
        assert set(found.errors) <= {"broken off", "HTTP 502"}
        assert sum(found.errors.values()) <= len(found.flying)
        assert found.flying
        assert found.after
        assert all(one.ok for one in found.after)
        assert wait_until(lambda: not any(members(killed.id)) and not fleet.servers[0].alive)
        assert fleet.servers[1].alive
        assert fleet.ask("Once upon a time", max_tokens=4)


class TestFigures:
    def found(self, *samples: Sample) -> Failover:
        return Failover(Report.of(samples, Load(len(samples), rate=1.0), 10.0, "demo", None), "demo", 2.0, 1.0)

    def test_an_answer_that_only_looks_whole_is_lost(self) -> None:
        whole, seen = Sample(0.0, 0.0, [0.5], 0.6), Sample(1.9, 1.9, error="broken off")
        cut, never = Sample(1.5, 1.5, [1.8], 2.1, error=ENDED), Sample(4.0)
        found = self.found(whole, seen, cut, never)
        assert (found.report.sent, found.report.answered, found.errors, found.lost) == (4, 1, {"broken off": 1}, 2)
        assert found.flying == [seen, cut]
        assert found.after == [never]
        assert "sent 4, answered 1, errors: 1 broken off, lost 2" in found.words()
        assert self.found(whole, seen).lost == 0

    def test_what_proves_nothing_is_refused(self) -> None:
        with pytest.raises(UsageError, match="open loop"):
            kill_one(Replicas("demo", 2, engine=engine()), ["x"], Load(4, concurrency=2))
        with pytest.raises(UsageError, match="only replica"):
            kill_one(Replicas("demo", 1, engine=engine()), ["x"], Load(4, rate=2.0))


class TestStartAndEnd:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"count": 0}, "from 1 to 64"), ({"router": "ngnix"}, "did you mean 'nginx'"),
            ({"host": "0.0.0.0"}, "refusing to listen"),
        ],
    )  # fmt: skip
    def test_mistakes_are_one_sentence_and_start_nothing(self, options: dict[str, object], said: str) -> None:
        before = {state.id for state in running()}
        with pytest.raises(UsageError, match=said):
            Replicas("demo", engine=engine(), **options).start()  # type: ignore[arg-type]
        assert {state.id for state in running()} == before

    def test_a_replica_that_cannot_start_leaves_nothing(self) -> None:
        fleet = Replicas("demo", 2, engine=engine("crash"))
        with pytest.raises(QuantlabError, match="upside down"):
            fleet.start()
        assert not any(any(members(server._id)) for server in [*fleet.servers, fleet.router])

    def test_a_missing_nginx_is_said_before_anything_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QUANTLAB_NGINX", "no-such-nginx")
        with pytest.raises(QuantlabError, match="apt-get install"):
            Replicas("demo", router="nginx", engine=engine()).start()

    @pytest.mark.parametrize("router", EACH)
    def test_all_of_it_dies_with_its_owner(self, router: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        command = [sys.executable, "-c", OWNER, router]
        owner = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True, text=True)
        assert owner.stdout
        ids = owner.stdout.readline().split()
        assert len(ids) == 3
        urls = [state.url for state in running() if state.id in ids]
        os.killpg(owner.pid, signal.SIGKILL)
        owner.communicate(timeout=20)
        assert wait_until(lambda: not any(any(members(one)) for one in ids))
        assert wait_until(lambda: not any(list(servers_folder().glob(f"{one}.json")) for one in ids))
        for url in urls:  # nginx hides from `members`: ask the address
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/models")

    def test_every_router_has_a_sentence_for_its_absence_or_needs_none(self) -> None:
        assert {name for name, (_, _, missing, _) in ROUTERS.items() if missing() is None} >= {"quantlab"}
