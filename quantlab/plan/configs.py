"""From a Hugging Face config.json to a ModelShape, with the defaults that calculators forget.

    head_dim             its own key; only where it is absent, hidden_size / num_attention_heads
    num_key_value_heads  absent: as many as attention heads (no grouping)
    tie_word_embeddings  absent: true for Gemma, false for the others
    sliding_window       Mistral: in force unless null, and 4096 where the key is absent; Qwen: only with
                         use_sliding_window, in the layers from max_window_layers on; Gemma 2: every other layer;
                         Gemma 3: five layers of six. A list `layer_types` says it layer by layer
    attention_bias       Llama, Qwen3, Gemma: all four projections; Qwen2 has q, k and v biases without any key
    num_experts, num_local_experts, n_routed_experts     one thing, three names

What a family leaves out of its file is DEFAULTS: Gemma-3-4B's says neither how many heads it has nor its vocabulary.
Read in transformers 5.17: configuration_*.py and modeling_*.py of the families in FAMILIES.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.plan.shapes import Experts, Latent, ModelShape

FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3", "gemma3_text", "phi3",
    "deepseek_v2", "deepseek_v3",
)  # fmt: skip
DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 128, "num_experts_per_tok": 8},
    "gemma2": {"head_dim": 256, "tie_word_embeddings": True, "sliding_window": 4096, "max_position_embeddings": 8192},
    "gemma3_text": {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262208,
        "max_position_embeddings": 131072, "tie_word_embeddings": True, "sliding_window": 4096,
    },
    "deepseek_v2": {"first_k_dense_replace": 0, "n_shared_experts": 2, "q_lora_rank": 1536},
    "deepseek_v3": {"first_k_dense_replace": 3, "n_shared_experts": 1, "q_lora_rank": 1536},
}  # fmt: skip
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LATENT = ("q_a_proj", "kv_a_proj_with_mqa", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_EVERY = {"gemma2": 2, "gemma3_text": 6}  # each so many-th layer attends to everything


def read_config(path: Path, name: str | None = None) -> ModelShape:
    """The shape of the model whose config.json is at `path`, or in the folder `path`."""
    import json  # here, because most plans need no file and `import quantlab.plan` is to be instant

    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise QuantlabError(f"there is no {file}; give a model's folder or its config.json") from None
    except (OSError, ValueError) as error:
        raise QuantlabError(f"cannot read {file} as JSON ({error}); fetch the config.json again") from error
    if not isinstance(config, dict):
        raise QuantlabError(f"{file} holds no JSON object; fetch the config.json again")
    return shape_from_config(config, name or file.resolve().parent.name, source=str(file))


def shape_from_config(config: Mapping[str, Any], name: str, source: str = "") -> ModelShape:
    """The shape that a config describes.

    >>> small = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
    ...          "vocab_size": 100, "max_position_embeddings": 32}
    >>> shape_from_config(small, "small").head_dim
    16
    """
    family = config.get("model_type", "llama")
    if family not in FAMILIES:
        raise unknown("model family", str(family), FAMILIES)
    vision = 0
    if family == "gemma3":
        text, seen = (_part(config, key, name) for key in ("text_config", "vision_config"))
        family, config = "gemma3_text", text
        vision = _siglip(seen, _size(text, "hidden_size", name), name)
    config = {**DEFAULTS.get(family, {}), **config}
    heads, hidden = _size(config, "num_attention_heads", name), _size(config, "hidden_size", name)
    layers, latent = _size(config, "num_hidden_layers", name), _latent(config, family, name)
    window, full = _window(config, family, layers, name)
    return ModelShape(
        name=name,
        layers=layers,
        hidden=hidden,
        intermediate=_size(config, "intermediate_size", name),
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", name, default=heads),
        head_dim=latent.nope + latent.rope if latent else _head_dim(config, hidden, heads, name),
        vocab=_size(config, "vocab_size", name),
        context=_size(config, "max_position_embeddings", name),
        tied=bool(config.get("tie_word_embeddings", False)),
        window=window,
        qk_norm=family in ("qwen3", "qwen3_moe", "gemma3_text"),
        biased=_biased(config, family),
        source=source,
        full_layers=full,
        post_norms=family in _EVERY,
        fused=family == "phi3",
        experts=_experts(config, family, layers, name),
        latent=latent,
        vision=vision,
    )


def _part(config: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    part = config.get(key)
    if not isinstance(part, Mapping):
        raise QuantlabError(f"the config of {name} lacks {key!r}; fetch the config.json again")
    return part


def _size(config: Mapping[str, Any], key: str, name: str, default: int | None = None, least: int = 1) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise QuantlabError(f"the config of {name} lacks {key!r}; is it the config.json of a language model?")
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"the config of {name} has {key} = {value!r}; it must be a whole number of at least {least}")
    return value


def _head_dim(config: Mapping[str, Any], hidden: int, heads: int, name: str) -> int:
    if config.get("head_dim") is not None:
        return _size(config, "head_dim", name)
    if hidden % heads:
        raise UsageError(
            f"the config of {name} has no head_dim, and its hidden_size {hidden} does not divide by {heads} heads; "
            "one of the two is wrong"
        )
    return hidden // heads


def _window(config: Mapping[str, Any], family: str, layers: int, name: str) -> tuple[int | None, int]:
    """The window, and how many layers keep every token all the same."""
    asleep = family.startswith("qwen") and not config.get("use_sliding_window")
    if asleep or family.startswith(("llama", "deepseek")) or config.get("sliding_window") is None:
        return None, 0
    window, kinds = _size(config, "sliding_window", name), config.get("layer_types")
    if isinstance(kinds, list | tuple):
        if len(kinds) != layers:
            raise UsageError(
                f"the config of {name} has {layers} layers and {len(kinds)} layer_types; one of the two is wrong"
            )
        full = sum(kind != "sliding_attention" for kind in kinds)
    elif family in _EVERY:
        full = layers // _size(config, "sliding_window_pattern", name, default=_EVERY[family])
    elif family.startswith("qwen"):
        full = min(layers, _size(config, "max_window_layers", name, default=28, least=0))
    else:
        full = 0
    return (None, 0) if full == layers else (window, full)


def _experts(config: Mapping[str, Any], family: str, layers: int, name: str) -> Experts | None:
    if family == "mixtral":
        return Experts(
            _size(config, "num_local_experts", name),
            _size(config, "num_experts_per_tok", name),
            _size(config, "intermediate_size", name),
        )
    if family == "qwen3_moe":
        step, plain = _size(config, "decoder_sparse_step", name, default=1), config.get("mlp_only_layers") or ()
        dense = tuple(i for i in range(layers) if i in plain or (i + 1) % step)
        return Experts(
            _size(config, "num_experts", name),
            _size(config, "num_experts_per_tok", name),
            _size(config, "moe_intermediate_size", name),
            dense=dense,
        )
    if not family.startswith("deepseek") or config.get("n_routed_experts") is None:
        return None
    width = _size(config, "moe_intermediate_size", name)
    return Experts(
        _size(config, "n_routed_experts", name),
        _size(config, "num_experts_per_tok", name),
        width,
        shared=width * _size(config, "n_shared_experts", name, default=0, least=0),
        dense=tuple(range(_size(config, "first_k_dense_replace", name, default=0, least=0))),
        corrected=family == "deepseek_v3",
    )


def _latent(config: Mapping[str, Any], family: str, name: str) -> Latent | None:
    if not family.startswith("deepseek"):
        return None
    return Latent(
        kv_rank=_size(config, "kv_lora_rank", name),
        q_rank=None if config.get("q_lora_rank") is None else _size(config, "q_lora_rank", name),
        nope=_size(config, "qk_nope_head_dim", name),
        rope=_size(config, "qk_rope_head_dim", name),
        value=_size(config, "v_head_dim", name),
    )


def _biased(config: Mapping[str, Any], family: str) -> tuple[str, ...]:
    if family == "qwen2":
        return _ATTENTION[:3]
    attention = _LATENT if family.startswith("deepseek") else _ATTENTION
    return (*(attention if config.get("attention_bias") else ()), *(_MLP if config.get("mlp_bias") else ()))


def _siglip(config: Mapping[str, Any], text_hidden: int, name: str) -> int:
    """Parameters of Gemma 3's vision tower (SigLIP without its head) and of the projection into the text model."""
    h, m = _size(config, "hidden_size", name), _size(config, "intermediate_size", name)
    patch, side = _size(config, "patch_size", name, default=14), _size(config, "image_size", name, default=896)
    block = 4 * h * (h + 1) + m * (h + 1) + h * (m + 1) + 4 * h
    patches = (side // patch) ** 2
    tower = h * (3 * patch * patch + 1) + patches * h + _size(config, "num_hidden_layers", name) * block + 2 * h
    return tower + h * text_hidden + h
