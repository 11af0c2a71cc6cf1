"""The load generator at llama.cpp's real server: exact counts of tokens, its own answers, its key."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

from quantlab.errors import QuantlabError
from quantlab.models.load import LoadedModel
from quantlab.serve.load import Load, loadtest
from quantlab.serve.load.prompts import made
from quantlab.serve.server import Server


@pytest.fixture(scope="module")
def server(llama_cpp: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        with Server("tiny", context=256, threads=1) as running:
            yield running


def test_every_answer_is_the_servers_own_and_counted(server: Server, tiny: LoadedModel) -> None:
    prompts = made(tiny.tokenizer, 6, 24)
    report = loadtest(server.url, server.key, prompts, Load(6, concurrency=2), max_tokens=12)
    assert (report.sent, report.answered, report.errors) == (6, 6, {})
    for prompt, sample in zip(prompts, report.samples, strict=True):
        assert sample.text == server.client.complete(prompt, max_tokens=12, temperature=0)
        assert sample.ttft is not None
        assert sample.e2e is not None
        assert 0 < sample.ttft <= sample.e2e
    assert 0 < report.output_tokens <= 6 * 12


def test_without_the_key_it_says_so(server: Server) -> None:
    with pytest.raises(QuantlabError, match="HTTP 401"):
        loadtest(server.url, "wrong", ["a"], Load(1, concurrency=1))


def test_a_server_that_dies_under_load_loses_nothing(llama_cpp: ModuleType) -> None:
    import threading

    with Server("tiny", context=256, threads=1) as running:
        stop = threading.Timer(0.5, running.stop)
        stop.start()
        report = loadtest(
            running.url, running.key, ["Once upon a time"], Load(200, rate=40.0), max_tokens=64, timeout_s=20.0
        )
        stop.join()
    assert report.sent == 200
    assert report.answered + sum(report.errors.values()) == 200
    assert set(report.errors) <= {"no connection", "broken off", "ended too soon", "HTTP 503", "HTTP 500"}
    assert report.errors
