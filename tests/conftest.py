"""What every test shares: no network, fixed seeds, a learner's state of its own, models loaded once."""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

# before any library reads them
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.pop("QUANTLAB_DEBUG", None)

import pytest

from quantlab.cli import group, guard
from quantlab.models.bundled import tiny_folder as bundled_folder

if TYPE_CHECKING:
    from ggml_oracle import Ggml
    from made_checkpoints import Workshop

    from quantlab.models.load import LoadedModel


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each test has its own learner's state, and random numbers and signals that the tests before it did not touch."""
    monkeypatch.setenv("QUANTLAB_STATE", str(tmp_path_factory.mktemp("state")))
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """The bundled model's folder. Read only."""
    return bundled_folder()


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """The bundled model, loaded once: a test that changes its weights puts them back."""
    from quantlab.models.load import load

    return load("tiny")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Quantized checkpoints of the bundled model as each library makes them, made when first asked for. Read only."""
    from made_checkpoints import Workshop

    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def llama_cpp() -> ModuleType:
    """The llama_cpp module. It is compiled where quantlab is installed, so it alone may be absent, but never in CI."""
    try:
        return importlib.import_module("llama_cpp")
    except Exception as error:  # a library compiled for another machine fails in many ways
        reason = f"llama-cpp-python cannot be used here ({type(error).__name__}: {error}); see `quantlab doctor`"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ggml(llama_cpp: ModuleType) -> Iterator[Ggml]:
    """llama.cpp's C quantizers, in a child process (tests/ggml_oracle.py)."""
    from ggml_oracle import Ggml, library_of

    with Ggml(library_of(llama_cpp)) as oracle:
        yield oracle


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    def must_say(self, code: int, *words: str) -> None:
        """The contract of every failure: its exit code, one last line that holds these words, and no traceback."""
        assert self.code == code, self
        last = (self.err.splitlines() or [""])[-1]
        assert last.startswith("quantlab: "), self
        for word in words:
            assert word in last, (word, last)
        assert "Traceback" not in self.err + self.out


@pytest.fixture(scope="module")
def trivial_server() -> Iterator[str]:
    """The address of tests/load_server.py, which answers as each prompt asks."""
    command = [sys.executable, str(Path(__file__).parent / "load_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.kill()


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module's servers and files in a cache folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def run_cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the real command line in this process: run_cli("compare", folder) -> Ended(code, out, err)."""

    def run(*args: object) -> Ended:
        words = [str(arg) for arg in args]
        capfd.readouterr()
        code = guard(lambda: group.main(args=words, prog_name="quantlab", standalone_mode=False))
        return Ended(code, *capfd.readouterr())

    return run


@pytest.fixture
def run_cli_process() -> Callable[..., Ended]:
    """Run the real command line in a process of its own, with changes to its environment."""

    def run(*args: object, timeout_s: float = 120, **environment: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "quantlab.cli", *(str(arg) for arg in args)],
            env=os.environ | environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    return run
