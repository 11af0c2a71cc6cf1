"""The process of a library: its lines, its chatter, and every way in which it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from quantizer_faults import library, order

from quantlab.assets import cache_folder
from quantlab.backends.quantizers.process import run
from quantlab.backends.quantizers.runners import host
from quantlab.errors import QuantlabError

TESTS = Path(__file__).parent.parent
OWNER = """
import sys
from pathlib import Path
from quantizer_faults import library, order
from quantlab.backends.quantizers.process import run
from quantlab.cli import guard
folder = Path(sys.argv[1])
sys.exit(guard(lambda: run(library("endless", folder), order(folder), lambda what, share: None)))
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path / "cache"))


def failure(fault: str, folder: Path) -> str:
    with pytest.raises(QuantlabError) as failed:
        run(library(fault, folder), order(folder), lambda what, share: None)
    said = str(failed.value)
    assert "\n" not in said
    assert "Traceback" not in said
    return said


def logs() -> list[Path]:
    return list((cache_folder() / "quantize").glob("*.log"))


class TestItGoesWell:
    def test_progress_result_and_nothing_left(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        told: list[tuple[str, float | None]] = []
        facts = run(library("none", tmp_path), order(tmp_path), lambda what, share: told.append((what, share)))
        assert told == [("block 1 of 2", 0.0), ("block 2 of 2", 0.5)]
        assert facts["settings"] == {"seen": 4}
        assert facts["versions"] == {"pytest": pytest.__version__}
        assert facts["seconds"] > 0
        assert 5 * 2**20 < facts["peak_bytes"] < 2**30  # a bare interpreter
        assert capfd.readouterr() == ("", "")  # its chatter went to the log, and the log is gone
        assert logs() == []

    @pytest.mark.parametrize("disabled", ["", "1"])
    def test_bars_of_tqdm_are_progress(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disabled: str) -> None:
        monkeypatch.setenv("TQDM_DISABLE", disabled)
        told: list[tuple[str, float | None]] = []
        run(library("bars", tmp_path), order(tmp_path), lambda what, share: told.append((what, share)))
        assert ("Packing", pytest.approx(1 / 3)) in told

    def test_a_pass_of_several_is_a_share_of_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tqdm.std import tqdm

        monkeypatch.setattr(tqdm, "display", tqdm.display)
        told: list[tuple[str, float | None]] = []
        host.follow_bars(lambda what, share: told.append((what, share)))
        list(tqdm(range(2), desc="(3/5): Calibrating", mininterval=0))
        assert told[0] == ("(3/5): Calibrating", 0.4)


class TestItSaysWhyItFailed:
    def test_out_of_memory_says_where_how_much_and_what_to_lower(self, tmp_path: Path) -> None:
        said = failure("memory", tmp_path)
        assert said.startswith("FaultyLib ran out of memory at block 2 of 4 (it asked for 123456789 bytes more); ")
        assert "fewer windows than these 8 of 3 tokens (--samples, --window)" in said

    def test_what_torch_really_says(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(RuntimeError) as refused:
            torch.empty(2**50, dtype=torch.uint8)
        assert host._failure(refused.value, "block 1")["kind"] == "memory"
        assert host._failure(refused.value, "block 1")["need"] == f"{2**50} bytes"
        gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")
        assert host._failure(gpu, "block 1")["need"] == "2.00 GiB"

    def test_memory_of_python_itself(self, tmp_path: Path) -> None:
        assert "ran out of memory at loading; calibrate on fewer" in failure("python memory", tmp_path)

    def test_a_full_disk(self, tmp_path: Path) -> None:
        assert failure("disk", tmp_path).startswith("the disk was full at saving; free some space or choose another")

    def test_a_library_that_cannot_be_loaded(self, tmp_path: Path) -> None:
        said = failure("import", tmp_path)
        assert "FaultyLib is installed but cannot be loaded (No module named 'no_such_library_anywhere')" in said
        assert "pip install --force-reinstall 'faultylib'" in said

    def test_an_error_of_the_library(self, tmp_path: Path) -> None:
        said = failure("library", tmp_path)
        assert said.startswith("FaultyLib failed at loading: KeyError: 'model.layers.0' (log: ")
        (log,) = logs()
        assert str(log) in said
        assert "Traceback" in log.read_text()


class TestItDiesWithoutAWord:
    def test_kill_9(self, tmp_path: Path) -> None:
        said = failure("killed", tmp_path)
        assert said.startswith(
            "the process of FaultyLib was killed (SIGKILL), as the system does when memory runs out, "
        )
        assert "at block 3 of 4; the last line of its log: allocating the Hessian (log: " in said

    def test_a_crash(self, tmp_path: Path) -> None:
        assert "crashed (SIGABRT) at the start" in failure("crash", tmp_path)

    def test_an_exit_code(self, tmp_path: Path) -> None:
        assert "ended with exit code 3 at the start; the last line of its log: the last words" in failure(
            "exit", tmp_path
        )

    def test_a_python_that_is_gone(self, tmp_path: Path) -> None:
        missing = library("none", tmp_path)
        Path(missing.runner).unlink()
        assert "FaultyLib failed at loading: FileNotFoundError" in failure_of(missing, tmp_path)


def failure_of(faulty, folder: Path) -> str:
    with pytest.raises(QuantlabError) as failed:
        run(faulty, order(folder), lambda what, share: None)
    return str(failed.value)


def gone(pids: list[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.05)
    return False


class TestTheOwnerGoes:
    def owner(self, folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder)], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (folder / "pids").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        return process, [int(pid) for pid in (folder / "pids").read_text().split()]

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_interrupt_ends_the_library_and_what_it_started(
        self, tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        process, pids = self.owner(tmp_path)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == code, err
        assert "Traceback" not in err
        assert gone(pids, 1)

    def test_kill_9_of_the_owner_ends_them_too(self, tmp_path: Path) -> None:
        process, pids = self.owner(tmp_path)
        process.kill()
        process.wait()
        assert gone(pids, 10)


def test_an_order_is_one_line(tmp_path: Path) -> None:
    text = order(tmp_path).to_json()
    assert "\n" not in text
    assert json.loads(text)["windows"] == [[1, 2, 3]] * 8
