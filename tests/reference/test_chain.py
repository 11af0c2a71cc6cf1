"""Fine-tune in NF4, merge, quantize, verify, serve, ask: every link takes what the one before it wrote.

The command line does what it can do; fine-tuning and the merge have no command. vLLM serves the AWQ folder where there
is one and QUANTLAB_ALL_LIBRARIES=1 asks for it; llama.cpp serves the GGUF file always.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from made_checkpoints import EVERYTHING
from safetensors.torch import load_file

from quantlab.checkpoints.read import dequantized
from quantlab.evaluate.logits import TorchLogits
from quantlab.finetune.examples import encode, read_examples
from quantlab.finetune.merge import save_merged
from quantlab.finetune.qlora import Settings, finetune
from quantlab.finetune.stages import loss_of
from quantlab.models.load import LoadedModel
from quantlab.serve.engines import ENGINES
from quantlab.serve.server import Server

REQUEST = "Tell me a story about a lantern"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model after six steps on lantern tales, in bfloat16."""
    tuned = finetune("tiny", settings=Settings(steps=6, batch=4, warmup=2))
    return save_merged(tuned, tmp_path_factory.mktemp("chain") / "merged")


@pytest.fixture(scope="module")
def awq(merged: Path) -> Path:
    """Where the AWQ checkpoint goes; the first test writes it."""
    return merged.with_name("awq")


def test_the_merged_model_becomes_an_awq_checkpoint_that_is_sound(merged: Path, awq: Path, run_cli: Any) -> None:
    little = ("--window", 64, "--samples", 8)
    made = run_cli("quantize", merged, "--method", "awq", "--backend", "quantlab", "--out", awq, *little)
    assert made.code == 0, made
    checked = run_cli("verify", awq, "--json")
    assert checked.code == 0, checked
    assert json.loads(checked.out)["kind"] == "awq"


def test_four_bits_keep_what_was_learned(merged: Path, awq: Path, tiny: LoadedModel) -> None:
    """On lantern tales that training did not see: 16 bits, the AWQ file as it lies there, and the model as it was."""
    answers = [encode(tiny.tokenizer, example, 512) for example in read_examples().held_out[:8]]
    known = dict(tiny.model.named_parameters())
    loss = {"before": loss_of(TorchLogits(tiny.model), answers).mean}
    for name, found in (("merged", load_file(merged / "model.safetensors")), ("awq", dequantized(awq))):
        weights = {key: W.float() for key, W in found.items() if key in known}
        loss[name] = loss_of(TorchLogits(tiny.model, weights), answers).mean
    assert loss["merged"] < loss["before"] - 0.5
    assert loss["awq"] < loss["before"] - 0.8 * (loss["before"] - loss["merged"])


def test_llama_cpp_serves_it(
    merged: Path, run_cli: Callable[..., Any], llama_cpp: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path / "cache"))
    gguf = merged.with_name("tuned.gguf")
    assert run_cli("quantize", merged, "--format", "q4_k_m", "--method", "rtn", "--out", gguf).code == 0
    assert run_cli("verify", gguf).code == 0
    with Server(str(gguf)) as server:
        assert len(server.ask(REQUEST, max_tokens=24, temperature=0).split()) > 8
    assert not server.alive


@pytest.mark.skipif(not EVERYTHING, reason="a server of vLLM takes a minute to start: QUANTLAB_ALL_LIBRARIES=1 runs it")
def test_vllm_serves_it(awq: Path) -> None:
    if problem := ENGINES["vllm"].missing():
        pytest.skip(problem)
    with Server(str(awq), engine="vllm") as server:
        assert len(server.ask(REQUEST, max_tokens=24, temperature=0).split()) > 8
    assert not server.alive
