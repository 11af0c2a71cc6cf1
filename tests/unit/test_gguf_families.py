"""Families as data: which configs are accepted, what they imply, and what is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from random_llama import FAMILIES as SMALL
from random_llama import LLAMA3_ROPE, YARN_ROPE, write_model
from safetensors.torch import load_file

from quantlab.checkpoints.gguf_families import FAMILIES, expected_shapes, family_of, gguf_name, turned_heads
from quantlab.checkpoints.gguf_rope import rope, rope_factors, scaling_metadata
from quantlab.checkpoints.gguf_tokenizer import read_tokenizer
from quantlab.errors import QuantlabError
from quantlab.models.smollm2 import part_pairs

WHERE = Path("config.json")


def _config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


@pytest.mark.parametrize("family", SMALL)
def test_a_family_expects_what_its_models_hold(family: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / family, family)
    config = _config(folder)
    shapes = expected_shapes(family_of(config, WHERE), config)
    assert shapes == {name: tuple(W.shape) for name, W in load_file(folder / "model.safetensors").items()}
    assert len({gguf_name(name) for name in shapes}) == len(shapes)


def test_every_family_is_tried() -> None:
    assert {name for family in FAMILIES for name in family.classes} == {
        name for config in SMALL.values() for name in config["architectures"]
    }


def test_heads_turn_in_llama_and_mistral_only(tmp_path: Path) -> None:
    turned = {}
    for name in SMALL:
        config = _config(write_model(tmp_path / name, name))
        family = family_of(config, WHERE)
        layers = ("q_proj.weight", "k_proj.weight", "q_proj.bias", "v_proj.weight")
        turned[name] = [turned_heads(f"model.layers.1.self_attn.{layer}", family, config) for layer in layers]
    assert turned == {
        "llama": [4, 2, 4, None], "mistral": [4, 2, 4, None], "qwen2": [None] * 4, "qwen3": [None] * 4,
    }  # fmt: skip


def test_pairs_come_apart_again() -> None:
    from quantlab.checkpoints.gguf_rope import interleave_pairs

    W = torch.randn(24, 5)
    assert torch.equal(part_pairs(interleave_pairs(W, 3), 3), W)


_YARN = {"rope_parameters": YARN_ROPE}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown": (
        "llama",
        {"architectures": ["GPT2LMHeadModel"]},
        "is a GPT2LMHeadModel; GGUF is written here for Llama",
    ),
    "nameless": ("llama", {"architectures": None}, "unknown architecture"),
    "a size that is missing": ("llama", {"hidden_size": None}, "no whole number for hidden_size"),
    "no layers": ("qwen3", {"num_hidden_layers": 0}, "no whole number for num_hidden_layers"),
    "wide heads": ("qwen2", {"head_dim": 32}, "heads that do not add up to hidden_size"),
    "a bias without a place": ("qwen3", {"attention_bias": True}, "sets attention_bias"),
    "another activation": ("mistral", {"hidden_act": "gelu"}, "activation 'gelu'"),
    "longrope": ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "by 'longrope'"),
    "llama3 in Qwen": ("qwen2", {"rope_parameters": LLAMA3_ROPE}, "by 'llama3'; GGUF is written here for default"),
    "no factor": ("llama", {"rope_parameters": {"rope_type": "linear"}}, "no number for factor"),
    "half a head": ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "sets partial_rotary_factor"),
    "another attention": (
        "qwen3",
        {"rope_parameters": {**YARN_ROPE, "attention_factor": 2.0}},
        "sets attention_factor",
    ),
    "no truncation": ("qwen3", {"rope_parameters": {**YARN_ROPE, "truncate": False}}, "sets truncate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_would_run_otherwise_is_refused(case: str, tmp_path: Path) -> None:
    family, changes, words = REFUSED[case]
    config = {**_config(write_model(tmp_path / "model", family)), **changes}
    with pytest.raises(QuantlabError, match=words) as caught:
        family_of(config, WHERE)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("config.json ")


def test_a_tensor_without_a_place() -> None:
    with pytest.raises(QuantlabError, match=r"model\.layers\.0\.mlp\.experts\.1\.weight has no place"):
        gguf_name("model.layers.0.mlp.experts.1.weight")


def test_rotary_settings_of_both_spellings() -> None:
    assert rope({"rope_theta": 5.0}) == {"rope_theta": 5.0, "rope_type": "default"}
    assert rope({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}})["rope_theta"] == 7.0
    said = {name: value.plain for name, value in scaling_metadata({"rope_parameters": YARN_ROPE}).items()}
    assert said == {"type": "yarn", "factor": 4.0, "original_context_length": 32}
    assert scaling_metadata({"rope_parameters": LLAMA3_ROPE}) == {}
    assert rope_factors({"rope_parameters": YARN_ROPE}, 16) is None


def test_rope_factors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=128, num_attention_heads=4, rope_parameters=LLAMA3_ROPE)
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = rope_factors({"rope_parameters": LLAMA3_ROPE}, 32)
    assert factors is not None
    plain = LLAMA3_ROPE["rope_theta"] ** (-torch.arange(0, 32, 2) / 32)
    torch.testing.assert_close(plain / factors, stretched, rtol=1e-5, atol=0)
    assert 1 == factors.min() < factors.max() == 8


def test_a_tokenizer_of_qwen(tmp_path: Path) -> None:
    """BOS from config.json, since tokenizer_config.json has none; added tokens that are special by their looks."""
    folder = write_model(tmp_path / "model", "qwen2", "qwen2")
    found = read_tokenizer(folder, _config(folder)["vocab_size"])
    assert (found.model, found.pre, found.add) == ("gpt2", "qwen2", {"bos": False, "eos": False})
    pad = found.tokens.index("<|endoftext|>")
    assert found.special_ids == {"bos": 0, "eos": 1, "pad": pad}
    assert found.types[pad : pad + 5] == [
        3,
        3,
        4,
        5,
        5,
    ]  # <|endoftext|> <|fim|> <tool_call>, then two that no token uses
    assert found.metadata()["tokenizer.ggml.padding_token_id"].plain == pad


def test_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "mistral", "sentencepiece")
    found = read_tokenizer(folder, _config(folder)["vocab_size"])
    assert (found.model, found.pre, found.merges, found.add) == ("llama", "default", [], {"bos": True})
    assert found.special_ids == {"bos": 1, "eos": 2, "unk": 0}
    assert (found.types[3], found.tokens[3], found.scores[3]) == (6, "<0x00>", 0.0)
    first = 3 + 256
    assert found.scores[first : len(found.scores) - 2] == [float(-i) for i in range(len(found.scores) - 2 - first)]
    assert "tokenizer.ggml.add_space_prefix" not in found.metadata()


_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}


@pytest.mark.parametrize(
    ("changes", "prefix"),
    [
        ({"normalizer": None, "pre_tokenizer": _METASPACE}, True),
        ({"normalizer": None, "pre_tokenizer": {**_METASPACE, "prepend_scheme": "never"}}, False),
        ({"normalizer": _REPLACE, "pre_tokenizer": None}, False),
        ({"normalizer": None, "pre_tokenizer": {**_METASPACE, "split": True}}, None),
        ({"normalizer": {"type": "NFKC"}, "pre_tokenizer": None}, None),
        ({"normalizer": None, "pre_tokenizer": None}, None),
    ],
)
def test_how_sentencepiece_treats_spaces(changes: dict[str, Any], prefix: bool | None, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "llama", "sentencepiece")
    whole = json.loads((folder / "tokenizer.json").read_text()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    size = _config(folder)["vocab_size"]
    if prefix is None:
        with pytest.raises(QuantlabError, match="treats spaces in a way that GGUF"):
            read_tokenizer(folder, size)
    else:
        said = read_tokenizer(folder, size).metadata()
        assert ("tokenizer.ggml.add_space_prefix" in said) is not prefix
