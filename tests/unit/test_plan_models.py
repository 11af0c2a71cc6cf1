"""Shapes of real models: parameter counts as published, configs read with the right defaults, and bad configs."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantlab.assets import bundled
from quantlab.errors import QuantlabError, UsageError
from quantlab.plan.models import MODELS, ModelShape, model_names, shape_from_config, shape_of

PUBLISHED = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "codellama-34b": 33_743_970_304,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "smollm2-135m": 134_515_008,
}


def test_parameter_counts_are_the_published_ones() -> None:
    assert {name: shape.parameters for name, shape in MODELS.items()} == PUBLISHED


def test_every_model_says_where_it_was_read() -> None:
    for shape in MODELS.values():
        assert shape.source.startswith("config.json of ")
        assert "20" in shape.source.rpartition(", ")[2]


def small(**changed: Any) -> dict[str, Any]:
    config = {
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 64,
    }  # fmt: skip
    return {key: value for key, value in {**config, **changed}.items() if value is not ...}


@pytest.mark.parametrize(
    "config",
    [
        small(),
        small(num_key_value_heads=...),
        small(head_dim=32, tie_word_embeddings=True),
        small(attention_bias=True, mlp_bias=True),
        small(model_type="mistral"),
        small(model_type="mistral", sliding_window=None),
        small(model_type="qwen2"),
        small(model_type="qwen2", tie_word_embeddings=True, sliding_window=32, use_sliding_window=False),
        small(model_type="qwen3", head_dim=24),
        small(model_type="qwen3", head_dim=24, attention_bias=True),
    ],
    ids=lambda c: "-".join(str(v) for k, v in c.items() if c.get(k) != small().get(k)) or "llama",
)
def test_a_config_gives_the_tensors_that_transformers_builds(config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = config.pop("model_type")
    real = AutoConfig.for_model(kind, **config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(real)
    ours = shape_from_config({"model_type": kind, **config}, "small")
    assert {t.name: t.shape for t in ours.tensors()} == {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert ours.window == (real.sliding_window if kind == "mistral" else None)


def test_a_config_without_head_dim_or_kv_heads_takes_the_defaults() -> None:
    shape = shape_from_config(small(num_key_value_heads=...), "old")
    assert (shape.head_dim, shape.kv_heads, shape.kv_group, shape.tied) == (16, 4, 1, False)


def test_head_dim_is_its_own_number() -> None:
    qwen = shape_of("qwen3-4b")
    assert (qwen.hidden // qwen.heads, qwen.head_dim) == (80, 128)


def test_tiny_is_read_from_the_bundled_checkpoint() -> None:
    with (bundled("assets/story-model") / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    stored = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    assert {t.name: t.shape for t in shape_of("tiny").tensors()} == stored


def test_a_folder_a_file_and_a_shape_are_models_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small()))
    by_folder, by_file = shape_of(tmp_path), shape_of(str(tmp_path / "config.json"))
    assert by_folder == by_file == shape_of(by_folder)
    assert by_folder.name == tmp_path.name


def test_names_are_forgiving_and_sorted_by_size() -> None:
    assert shape_of(" Llama-3.1-8B ").name == "llama-3.1-8b"
    assert model_names()[:2] == ["tiny", "smollm2-135m"]
    assert model_names()[-1] == "llama-3.1-405b"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (small(hidden_size=...), "lacks 'hidden_size'"),
        (small(vocab_size="many"), "vocab_size = 'many'"),
        (small(num_hidden_layers=-3), "num_hidden_layers = -3"),
        (small(num_hidden_layers=True), "num_hidden_layers = True"),
        (small(num_attention_heads=5, num_key_value_heads=5), "does not divide by 5 heads"),
        (small(num_key_value_heads=3), "cannot share 3 KV heads"),
        (small(model_type="mixtral"), "unknown model family 'mixtral'; did you mean 'mistral'"),
        (small(model_type="qwen2", use_sliding_window=True, sliding_window=8), "does not model yet"),
        (small(model_type="mistral", sliding_window=-1), "sliding_window = -1"),
    ],
)
def test_a_bad_config_is_one_sentence(config: dict[str, Any], message: str) -> None:
    with pytest.raises(QuantlabError, match=message):
        shape_from_config(config, "broken")


@pytest.mark.parametrize(("text", "message"), [("{", "cannot read"), ("[]", "no JSON object"), (None, "there is no")])
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(QuantlabError, match=message):
        shape_of(tmp_path)


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'llama-3-70b'"):
        shape_of("llama3-70b")
    with pytest.raises(QuantlabError, match=r"there is no .*missing\.json"):
        shape_of("missing.json")


def test_a_shape_refuses_absurd_sizes() -> None:
    with pytest.raises(UsageError, match="layers must be a whole number"):
        ModelShape("nothing", 0, 1, 1, 1, 1, 1, 1, 1)


def test_the_planner_is_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import quantlab.plan; took = time.perf_counter() - start;"
        "heavy = {'torch', 'numpy', 'transformers', 'click', 'rich'} & set(sys.modules); print(took, *heavy)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(5)]
    found = [run.stdout.split() for run in runs]
    assert all(len(words) == 1 for words in found), found
    assert min(float(words[0]) for words in found) <= 0.05
