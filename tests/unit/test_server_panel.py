"""The panel of a server, with a real one; and vLLM's page of figures, read from what vLLM 0.32 wrote."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from pathlib import Path

import pytest

from quantlab.errors import QuantlabError
from quantlab.serve.engines import ENGINES
from quantlab.serve.metrics import Metrics, metrics, parse
from quantlab.serve.server import Server
from quantlab.serve.state import members
from quantlab.widgets import server_panel
from quantlab.widgets.server_panel import ServerPanel

PAGE = (Path(__file__).parent / "data" / "vllm_metrics.txt").read_text(encoding="utf-8")


def html_of(panel: ServerPanel) -> str:
    return str(panel.box.children[1].value)


def test_state_memory_log_and_stop() -> None:
    with Server("tiny", fmt="q4_k_m") as server:
        panel = server_panel(server)
        assert "running, llama.cpp with tiny" in html_of(panel)
        assert server.url in html_of(panel)
        assert "counts nothing about itself" in html_of(panel)
        held = float(repr(panel).split("memory of its processes: ")[1].split(" MiB")[0].replace(",", ""))
        assert held > 20
        server.ask("Once", max_tokens=4)
        panel.refresh_button.click()
        assert "llama_perf" in html_of(panel)  # what llama.cpp logs after an answer
        for shown in (html_of(panel), repr(panel)):
            assert server.key not in shown
        panel.stop_button.click()
        assert not server.alive
        assert panel.stop_button.disabled
        assert "not running" in html_of(panel)
        assert not list(members(server.id))


def test_a_key_in_the_log_is_not_shown() -> None:
    with Server("tiny", fmt="q4_k_m") as server:
        with server.log.open("a", encoding="utf-8") as log:
            log.write(f"somebody wrote {server.key} here\n")
        assert "somebody wrote (the key) here" in html_of(server_panel(server))


def test_a_panel_keeps_no_server_alive() -> None:
    server = Server("tiny", fmt="q4_k_m").start()
    panel, name = server_panel(server), server.id
    del server
    gc.collect()
    deadline = time.monotonic() + 10
    while list(members(name)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(members(name))
    panel.refresh_button.click()
    assert "gone" in html_of(panel)
    panel.stop_button.click()  # nothing to stop, and no error


class TestMetrics:
    def test_of_a_page(self) -> None:
        found = parse(PAGE)
        assert (found.drafted, found.accepted) == (268, 90)
        assert found.prefix_queries == 320
        assert found.lines()["guesses kept"] == "34% of 268"
        assert found.first_s
        assert found.between_s

    def test_what_one_load_did(self) -> None:
        after = parse(PAGE)
        before = replace(after, accepted=10.0, drafted=28.0, kv_use=0.9)
        spent = after - before
        assert (spent.drafted, spent.accepted) == (240, 80)
        assert spent.kv_use == after.kv_use

    def test_an_empty_page_says_nothing(self) -> None:
        assert parse("") == Metrics()
        assert list(Metrics().lines()) == ["requests", "KV cache in use"]

    def test_llama_cpp_has_no_page(self) -> None:
        assert metrics(Server("tiny")) is None

    def test_a_server_that_is_gone_is_one_sentence(self) -> None:
        gone = Server("tiny", engine=replace(ENGINES["vllm"]))
        gone.url = "http://127.0.0.1:9/v1"
        with pytest.raises(QuantlabError, match="is the server still running"):
            metrics(gone)
