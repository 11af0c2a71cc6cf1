"""vLLM loads our checkpoints and predicts what our weights predict: AWQ, GPTQ, and compressed-tensors in 4 and 8 bits.

vLLM computes in bfloat16, and on a CPU every product rounds: of the unquantized model its log-probabilities differ from
float32's by 0.02 nats on average, by 0.12 at most. With 4-bit weights they differ as much from our weights', and by 0.3
from those of the unquantized model (measured with vLLM 0.32 on a CPU; so the limits below). INT8 checkpoints round
inputs to 8 bits as well: 0.08.

One process of vLLM's environment loads all of them. It takes about half a minute, and there is none unless
`quantlab env create serve` made it (or QUANTLAB_VLLM names one).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cases import Layers, quantize, weights_of
from logprobs_elsewhere import ask
from made_checkpoints import EVERYTHING
from torch import Tensor

from quantlab.checkpoints.write import write_checkpoint
from quantlab.evaluate.rounded import Judge
from quantlab.evaluate.windows import evaluation_texts
from quantlab.models.load import LoadedModel
from quantlab.plan.memory import GIB, tokens_in
from quantlab.serve import vllm_log
from quantlab.serve.engines import ENGINES, vllm_python
from quantlab.serve.server import Server

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "awq": ("awq_int4_g128", {}),
    "gptq": ("gptq_int4_g128", {}),
    "int4": ("int4_g128", {"scale_dtype": "bfloat16"}),
    "int8": ("int8", {"scale_dtype": "bfloat16"}),
}
LIMIT = {"awq": 0.04, "gptq": 0.04, "int4": 0.04, "int8": 0.15}  # nats, on average
OWN_KERNEL = 2  # times as far with vLLM's own 4-bit kernel, on CPUs that have AVX-512: 0.056 to 0.062 were measured
TOKENS = 64
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python that holds vLLM; skips where nobody has made that environment, for it would be gigabytes."""
    if problem := ENGINES["vllm"].missing():
        pytest.skip(problem)
    found = vllm_python()
    assert found
    return found


@pytest.fixture(scope="module")
def layers(tiny_folder: Path) -> dict[str, Layers]:
    """The bundled model in every kind."""
    return {kind: quantize(weights_of(tiny_folder), fmt, **options) for kind, (fmt, options) in KINDS.items()}


@pytest.fixture(scope="module")
def folders(python: Path, layers: dict[str, Layers], tiny_folder: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """Our checkpoints."""
    place = tmp_path_factory.mktemp("checkpoints")
    return {kind: write_checkpoint(tiny_folder, place / kind, layers[kind]) for kind in KINDS}


@pytest.fixture(scope="module")
def tokens(tiny: LoadedModel) -> list[list[int]]:
    """The beginnings of four stories that the model has not seen."""
    bos, cut = tiny.tokenizer.bos_token_id, tiny.tokenizer
    return [[bos, *cut(text, add_special_tokens=False)["input_ids"]][:TOKENS] for text in evaluation_texts()[:4]]


@pytest.fixture(scope="module")
def prompt(tiny: LoadedModel) -> list[int]:
    return [tiny.tokenizer.bos_token_id, *tiny.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]]


@pytest.fixture(scope="module")
def said(
    python: Path, folders: dict[str, Path], tokens: list[list[int]], prompt: list[int], tmp_path_factory: Any
) -> dict[str, dict[str, Any]]:
    """What vLLM says of each."""
    log = tmp_path_factory.mktemp("vllm") / "log"
    found = ask("vllm", python, list(folders.values()), tokens, prompt, log)
    return {kind: found[folder] for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def expected(tiny: LoadedModel, layers: dict[str, Layers], tokens: list[list[int]]) -> dict[str, Tensor]:
    """The log-probabilities of every token, with our dequantized weights in bfloat16, and of the model as it was."""
    judge = Judge(tiny, stories=2)
    of = {"bf16": {}, **{kind: _dequantized(found) for kind, found in layers.items()}}
    return {kind: torch.cat([_scored(judge.logits(W, torch.tensor([t])), t) for t in tokens]) for kind, W in of.items()}


def _dequantized(layers: Layers) -> dict[str, Tensor]:
    return {name: Q.dequantize().bfloat16().float() for name, Q in layers.items()}


def _scored(logits: Tensor, ids: list[int]) -> Tensor:
    return logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_vllm_predicts_what_our_weights_predict(kind: str, said: Any, expected: dict[str, Tensor]) -> None:
    assert "error" not in said[kind], said[kind]
    found = torch.cat([torch.tensor(row) for row in said[kind]["logprobs"]])
    distance = {name: float((found - one).abs().mean()) for name, one in expected.items()}
    looser = 1 if said[kind]["stand_in"] else OWN_KERNEL
    assert distance[kind] < LIMIT[kind] * looser
    others = distance.keys() - {kind} - ({"bf16"} if kind == "int8" else set())  # 8 bits hardly differ from 16
    assert min(distance[name] for name in others) > 3 / looser * distance[kind], distance


@pytest.mark.parametrize("kind", KINDS)
def test_vllm_says_what_our_weights_find_most_likely(
    kind: str, said: Any, tiny: LoadedModel, layers: dict[str, Layers], prompt: list[int]
) -> None:
    answer = said[kind]["answer"]
    assert len(answer) == 16
    ids = [*prompt, *answer]
    logits = Judge(tiny, stories=2).logits(_dequantized(layers[kind]), torch.tensor([ids]))[0]
    chosen = logits[len(prompt) - 1 : -1]
    behind = chosen.amax(-1) - chosen.gather(1, torch.tensor(answer)[:, None])[:, 0]
    assert behind.max() < 0.5  # nats behind our favourite
    assert (behind == 0).sum() >= 13


@pytest.mark.skipif(not EVERYTHING, reason="a server of vLLM takes a minute to start: QUANTLAB_ALL_LIBRARIES=1 runs it")
def test_a_server_of_vllm_says_the_same(folders: dict[str, Path], said: Any, tiny: LoadedModel, prompt: Any) -> None:
    with Server(str(folders["awq"]), engine="vllm", context=256) as server:
        answer = server.client.complete(prompt, max_tokens=16, temperature=0.0, ignore_eos=True)
        assert answer == tiny.tokenizer.decode(said["awq"]["answer"])
        assert len(list(server.stream("Tell me a story about a fox", max_tokens=8))) >= 4
        assert server.client.models() == ["awq"]
        memory = vllm_log.read(server.log)
        assert memory.kv_gib is not None
        assert memory.kv_tokens == tokens_in(memory.kv_gib * GIB, "tiny")  # what the planner says that so much holds
