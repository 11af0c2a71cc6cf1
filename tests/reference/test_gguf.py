"""Our GGUF files against llama.cpp: the same bytes as its converter writes, the same logits as transformers' model."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize, quantize
from golden.gguf_cases import CASES, digest, write_case
from random_llama import LINEAR_ROPE, LLAMA3_ROPE, YARN_ROPE, write_llama, write_model
from torch import Tensor

from quantlab.backends.llama_cpp import FTYPES, Logits, quantize_gguf
from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.gguf_read import tensors, types_used
from quantlab.errors import QuantlabError, UsageError
from quantlab.layout import layout
from quantlab.models.load import LoadedModel, load

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "gguf_files.json").read_text())["files"]
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "output head of its own": ("llama", {"tie_word_embeddings": False}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "every head its own keys": ("llama", {"num_key_value_heads": 4}),
    "heads wider than the model": ("llama", {"head_dim": 32}),
    "Llama 3 rotary": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "rotary as transformers 4 wrote it": ("llama", {"rope_parameters": None, "rope_theta": 500000.0}),
    "linear rotary": ("llama", {"rope_parameters": LINEAR_ROPE}),
    "Mistral": ("mistral", {"tie_word_embeddings": False}),
    "Qwen2": ("qwen2", {}),
    "Qwen2 with yarn": ("qwen2", {"rope_parameters": YARN_ROPE, "tie_word_embeddings": False}),
    "Qwen3": ("qwen3", {}),
    "Qwen3 with yarn": ("qwen3", {"rope_parameters": YARN_ROPE}),
}


@pytest.fixture(scope="module")
def tiny_gguf(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def _logits(path: Path, tokens: list[int]) -> Tensor:
    with Logits(path, len(tokens)) as source:
        return next(source([tokens]))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


@pytest.mark.parametrize("case", CASES)
def test_same_bytes_as_llama_cpps_converter(case: str, tmp_path: Path) -> None:
    ours = digest(write_gguf(write_case(tmp_path / case, case), tmp_path / "out.gguf"))
    expected = GOLDEN[case]
    expected["metadata"]["general.name"] = ["STRING", case]  # llama.cpp writes it in title case
    assert ours["metadata"] == expected["metadata"]
    assert ours["tensors"] == expected["tensors"]


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_agrees_with_transformers(shape: str, tmp_path: Path, llama_cpp: ModuleType) -> None:
    """All in float32: only the order of sums differs, 1e-4 of logits of size 4; a wrong pair or bias makes it 1."""
    family, changes = SHAPES[shape]
    folder = write_model(tmp_path / "model", family, **changes)
    tokens = torch.randint(2, 270, (96,), generator=torch.Generator().manual_seed(7)).tolist()
    model = load(str(folder)).model
    path = write_gguf(folder, tmp_path / "model.gguf", "f32")
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0]
        told = model.generate(torch.tensor([tokens[:8]]), max_new_tokens=16, do_sample=False, eos_token_id=None)[0]
    got = _logits(path, tokens)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-4
    assert _continued(path, tokens[:8], 16) == told.tolist()


def _continued(path: Path, tokens: list[int], count: int) -> list[int]:
    """The most likely token each time, by llama.cpp."""
    with Logits(path, len(tokens) + count) as source:
        for _ in range(count):
            tokens = [*tokens, int(next(source([tokens]))[-1].argmax())]
    return tokens


def test_the_bundled_model_runs_the_same(
    tiny: LoadedModel, tiny_gguf: Path, tmp_path: Path, llama_cpp: ModuleType
) -> None:
    """float16 holds these bfloat16 weights exactly, and activations are rounded to it: 2^-11 of each."""
    assert tiny_gguf.stat().st_size < 24e6
    tokens = [0, *tiny.tokenizer("Once upon a time there was a little fox.", add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        expected = tiny.model(torch.tensor([tokens])).logits[0]
    got = _logits(quantize_gguf(tiny_gguf, tmp_path / "f16.gguf", "f16"), tokens)
    assert (got - expected).abs().max() < 0.05
    assert _kl(expected, got).max() < 1e-4
    assert (got.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9


def test_f16_and_f32_hold_the_same_numbers(tiny_folder: Path, tiny_gguf: Path, tmp_path: Path) -> None:
    exact = {t.name: t for t in GGUFReader(write_gguf(tiny_folder, tmp_path / "f32.gguf", "f32")).tensors}
    half = {t.name: t for t in GGUFReader(write_gguf(tiny_folder, tmp_path / "f16.gguf", "f16")).tensors}
    for tensor in GGUFReader(tiny_gguf).tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(values, exact[tensor.name].data)
        assert np.array_equal(values.astype(np.float16).astype(np.float32), half[tensor.name].data.astype(np.float32))


def test_quantized_by_llama_cpp_reads_back(tiny_gguf: Path, tmp_path: Path, llama_cpp: ModuleType) -> None:
    """Q8_0 made by llama.cpp is what the gguf package makes of the same weights, byte for byte, and near them."""
    path = quantize_gguf(tiny_gguf, tmp_path / "q8_0.gguf", "q8_0")
    original = {tensor.name: tensor for tensor in GGUFReader(tiny_gguf).tensors}
    for tensor in GGUFReader(path).tensors:
        W = dequantize(original[tensor.name].data, original[tensor.name].tensor_type)
        if tensor.tensor_type.name != "Q8_0":
            assert np.array_equal(tensor.data, W)
            continue
        assert np.array_equal(tensor.data, quantize(W, tensor.tensor_type))
        steps = np.abs(W.reshape(-1, 32)).max(1, keepdims=True) / 127
        error = np.abs(dequantize(tensor.data, tensor.tensor_type) - W).reshape(-1, 32)
        assert (error <= (0.5 + 127 * 2**-11) * steps).all()  # half a step, and the float16 scale's own rounding


@pytest.mark.parametrize("ftype", ["q8_0", "q4_0", "q4_k_m", "q2_k"])
def test_bytes_are_those_of_the_layout(ftype: str, tiny_gguf: Path, tmp_path: Path, llama_cpp: ModuleType) -> None:
    stored = tensors(quantize_gguf(tiny_gguf, tmp_path / "out.gguf", ftype))
    assert sum(tensor.is_linear for tensor in stored) == 28  # 4 layers of 7
    for tensor in stored:
        if tensor.kind != "F32":
            assert tensor.nbytes == layout(tensor.kind.lower()).bytes_for(tensor.weights)


def test_the_mixture_is_reported(tiny_gguf: Path, tmp_path: Path, llama_cpp: ModuleType) -> None:
    used = types_used(tensors(quantize_gguf(tiny_gguf, tmp_path / "out.gguf", "q4_k_m")))
    assert sum(used.values()) == 28
    assert set(used) == {"Q4_K", "Q6_K"}


def test_every_format_can_be_made_and_run(tmp_path: Path, llama_cpp: ModuleType) -> None:
    folder = write_llama(tmp_path / "model", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    base = write_gguf(folder, tmp_path / "base.gguf")
    sizes = {}
    for ftype in FTYPES:
        path = quantize_gguf(base, tmp_path / f"{ftype}.gguf", ftype)
        assert torch.isfinite(_logits(path, [0, 50, 60])).all(), ftype
        sizes[ftype] = sum(tensor.nbytes for tensor in tensors(path) if tensor.is_linear)
    assert sizes["f16"] == sizes["bf16"] == max(sizes.values())
    assert sizes["q2_k"] == min(sizes.values())
    assert len(set(sizes.values())) > 10, "a wrong number would make the same file twice"


def test_what_cannot_be_written(tmp_path: Path, tiny_gguf: Path, llama_cpp: ModuleType) -> None:
    other = write_llama(tmp_path / "other", architectures=["GemmaForCausalLM"], model_type="gemma")
    scaled = write_llama(tmp_path / "scaled", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2})
    missing = write_llama(tmp_path / "missing")
    (missing / "config.json").write_text((missing / "config.json").read_text().replace('layers": 2', 'layers": 3'))
    shapes = write_llama(tmp_path / "shapes")
    (shapes / "config.json").write_text((shapes / "config.json").read_text().replace('size": 96', 'size": 80'))
    for folder, word in ((other, "Gemma"), (scaled, "dynamic"), (missing, "lacks"), (shapes, "config.json says")):
        with pytest.raises(QuantlabError, match=word):
            write_gguf(folder, tmp_path / "out.gguf")
    with pytest.raises(UsageError, match="did you mean 'bf16'"):
        write_gguf(tmp_path / "shapes", tmp_path / "out.gguf", "bf61")
    with pytest.raises(UsageError, match="did you mean 'q4_k_m'"):
        quantize_gguf(tiny_gguf, tmp_path / "out.gguf", "q4km")
    (tmp_path / "broken.gguf").write_bytes(tiny_gguf.read_bytes()[:100_000])
    for work in (
        lambda: quantize_gguf(tmp_path / "broken.gguf", tmp_path / "out.gguf", "q8_0"),
        lambda: Logits(tmp_path / "broken.gguf", 16),
    ):
        with pytest.raises(QuantlabError, match=r"llama\.cpp could not") as error:
            work()
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*out.gguf*")), "nothing half-written stays"


def test_numbers_beyond_float16_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_llama(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(QuantlabError, match=r"blk\.0\.ffn_up\.weight reaches 99840, beyond float16"):
        write_gguf(folder, tmp_path / "out.gguf", "f16")
    assert not list(tmp_path.glob("*out.gguf*"))


def test_an_interrupt_within_c_is_not_lost(
    tiny_gguf: Path, tmp_path: Path, llama_cpp: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp calls back into Python for each line of its log; an exception raised there would be swallowed."""
    quantize_in_c = llama_cpp.llama_model_quantize

    def interrupted(*args: Any) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return int(quantize_in_c(*args))

    monkeypatch.setattr(llama_cpp, "llama_model_quantize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize_gguf(tiny_gguf, tmp_path / "out.gguf", "q4_k_m")
    assert not list(tmp_path.iterdir())


def test_llama_cpp_says_nothing(tiny_gguf: Path, tmp_path: Path, llama_cpp: ModuleType, capfd: Any) -> None:
    _logits(quantize_gguf(tiny_gguf, tmp_path / "q4_0.gguf", "q4_0"), [0, 5, 6])
    said = capfd.readouterr()
    assert said.out + said.err == ""
