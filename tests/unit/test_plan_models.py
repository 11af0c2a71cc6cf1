"""Shapes of real models: parameter counts as published, configs read with the right defaults, and bad configs."""

import json
import math
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantlab.assets import bundled
from quantlab.errors import QuantlabError, UsageError
from quantlab.plan.blocks import counts_of, distinct_tensors
from quantlab.plan.model_data import ALIASES
from quantlab.plan.models import MODELS, ModelShape, canonical, model_names, shape_from_config, shape_of
from quantlab.plan.published import PARAMETERS
from quantlab.plan.shapes import KINDS, Experts


def test_parameter_counts_are_the_published_ones() -> None:
    assert {name: shape.parameters for name, shape in MODELS.items()} == PARAMETERS


def test_a_token_of_a_mixture_uses_few_of_its_weights() -> None:
    """The B of A3B, A22B and DeepSeek's 37B; 12.9 billion is Mistral's own figure for Mixtral."""
    billions = {"qwen3-30b-a3b": 3.3, "qwen3-235b-a22b": 22.2, "deepseek-v3": 37.6, "mixtral-8x7b": 12.9}
    assert {name: round(MODELS[name].active_parameters / 1e9, 1) for name in billions} == {
        **billions,
        "qwen3-30b-a3b": 3.4,
    }
    assert MODELS["llama-3-8b"].active_parameters == MODELS["llama-3-8b"].parameters


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
        small(
            model_type="qwen3",
            head_dim=24,
            num_hidden_layers=5,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=2,
        ),
        small(model_type="gemma2", num_hidden_layers=5, sliding_window=16),
        small(model_type="gemma3_text", num_hidden_layers=13, head_dim=24, sliding_window=8),
        small(model_type="gemma3_text", num_hidden_layers=13, head_dim=24, sliding_window=8, sliding_window_pattern=3),
        small(model_type="phi3", pad_token_id=0, bos_token_id=0, eos_token_id=0),
        small(
            model_type="phi3",
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            tie_word_embeddings=True,
            sliding_window=12,
        ),
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
    assert ours.window == (getattr(real, "sliding_window", None) if sliding(real) else None)
    assert ours.windowed_layers == sliding(real)


def sliding(config: Any) -> int:
    """Layers in which transformers slides a window."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return 0 if getattr(config, "sliding_window", None) is None else config.num_hidden_layers
    return sum(kind == "sliding_attention" for kind in kinds)


MIXTURES = [
    small(model_type="mixtral", num_local_experts=4, num_experts_per_tok=2),
    small(model_type="qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48, head_dim=24),
    small(model_type="qwen3_moe", num_hidden_layers=4, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48,
          head_dim=24, decoder_sparse_step=2, mlp_only_layers=[1]),
    *(
        small(model_type=family, num_hidden_layers=3, num_key_value_heads=4, n_routed_experts=8, num_experts_per_tok=2,
              moe_intermediate_size=48, n_shared_experts=2, first_k_dense_replace=1, kv_lora_rank=32,
              q_lora_rank=q_rank, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=24, n_group=1, topk_group=1,
              **more)
        for family, q_rank, more in (
            ("deepseek_v2", None, {}), ("deepseek_v2", 40, {}), ("deepseek_v3", 40, {"num_nextn_predict_layers": 0}),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "config", MIXTURES, ids=lambda c: f"{c['model_type']}-{c.get('q_lora_rank')}-{c['num_hidden_layers']}"
)
def test_a_mixture_has_the_weights_that_transformers_builds(config: dict[str, Any]) -> None:
    """transformers 5 stores all experts of a layer as two tensors; the checkpoints have one for each."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = config["model_type"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **{k: v for k, v in config.items() if k != "model_type"})
        )
    ours = shape_from_config(config, "small")
    real = {n: tuple(p.shape) for n, p in model.named_parameters()}
    fused = {n: s for n, s in real.items() if ".experts." in n}
    mine = [t for t in ours.tensors() if not t.name.endswith("e_score_correction_bias")]
    assert {t.name: t.shape for t in mine if t.kind != "experts"} == {n: s for n, s in real.items() if n not in fused}
    weights = sum(math.prod(shape) for shape in fused.values())
    assert sum(t.weights for t in mine if t.kind == "experts") == weights > 0
    assert sum(t.weights for t in ours.tensors()) == ours.parameters


def test_gemma_3s_vision_tower_is_counted() -> None:
    """As in google/gemma-3-4b-it's config.json, which leaves heads, vocabulary and context to the defaults."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "image_size": 896,
    }
    read = shape_from_config({"model_type": "gemma3", "text_config": text, "vision_config": vision}, "gemma-3-4b")
    known = MODELS["gemma-3-4b"]
    assert replace(read, source=known.source) == known
    assert counts_of(known)["vision"] == known.vision == 416_866_032 + 1152 * 2560 + 1152


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
    assert model_names()[-1] == "deepseek-v3"


def test_every_alias_is_a_model_and_the_hubs_names_are_known() -> None:
    assert {shape_of(alias).name for alias in ALIASES} <= set(MODELS)
    assert shape_of("70B").name == "llama-2-70b"
    assert canonical("meta-llama/Llama-3.3-70B-Instruct") == "llama-3.3-70b"
    assert canonical("Qwen/Qwen3-8B") == "qwen3-8b"
    assert canonical("llama-3.1-8b-instruct") == "llama-3.1-8b"
    assert canonical("nobody/llama-3.1-8b") is None


def test_every_kind_of_tensor_has_its_name() -> None:
    assert {tensor.kind for name in MODELS for tensor, _ in distinct_tensors(MODELS[name])} == set(KINDS)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (small(hidden_size=...), "lacks 'hidden_size'"),
        (small(vocab_size="many"), "vocab_size = 'many'"),
        (small(num_hidden_layers=-3), "num_hidden_layers = -3"),
        (small(num_hidden_layers=True), "num_hidden_layers = True"),
        (small(num_attention_heads=5, num_key_value_heads=5), "does not divide by 5 heads"),
        (small(num_key_value_heads=3), "cannot share 3 KV heads"),
        (small(model_type="mistrals"), "unknown model family 'mistrals'; did you mean 'mistral'"),
        (small(model_type="mamba2"), "Known: deepseek_v2, deepseek_v3, gemma2, .*, qwen3_moe"),
        (small(model_type="qwen3_moe"), "lacks 'moe_intermediate_size'"),
        (small(model_type="mixtral", num_local_experts=2, num_experts_per_tok=4), "4 experts run for a token"),
        (small(model_type="deepseek_v3"), "lacks 'kv_lora_rank'"),
        (small(model_type="gemma2", layer_types=["full_attention"]), "2 layers and 1 layer_types"),
        (small(model_type="gemma3"), "lacks 'text_config'"),
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
    with pytest.raises(UsageError, match="3 experts run for a token"):
        ModelShape("nothing", 1, 1, 1, 1, 1, 1, 1, 1, experts=Experts(2, 3, 8))


def test_the_planner_is_light() -> None:
    code = "import sys, quantlab.plan; print(*{'torch', 'numpy', 'transformers', 'click', 'rich'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []  # how long it takes is a matter of `make bench`
