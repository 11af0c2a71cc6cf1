"""From a Hugging Face config.json to a ModelShape, with the defaults that calculators forget.

    head_dim             its own key; only where it is absent, hidden_size / num_attention_heads
    num_key_value_heads  absent: as many as attention heads (no grouping)
    tie_word_embeddings  absent: false for the families read here
    sliding_window       Mistral: in force unless null, and 4096 where the key is absent; Qwen: only with
                         use_sliding_window, in the upper layers
    attention_bias       Llama, Qwen3: all four projections; Qwen2 has q, k and v biases without any key

Read in transformers 5.17: configuration_*.py of llama, mistral, qwen2 and qwen3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.plan.shapes import ModelShape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")


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
    heads, hidden = _size(config, "num_attention_heads", name), _size(config, "hidden_size", name)
    return ModelShape(
        name=name,
        layers=_size(config, "num_hidden_layers", name),
        hidden=hidden,
        intermediate=_size(config, "intermediate_size", name),
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", name, default=heads),
        head_dim=_size(config, "head_dim", name) if config.get("head_dim") is not None else _even(hidden, heads, name),
        vocab=_size(config, "vocab_size", name),
        context=_size(config, "max_position_embeddings", name),
        tied=bool(config.get("tie_word_embeddings", False)),
        window=_window(config, family, name),
        qk_norm=family == "qwen3",
        biased=_biased(config, family),
        source=source,
    )


def _size(config: Mapping[str, Any], key: str, name: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise QuantlabError(f"the config of {name} lacks {key!r}; is it the config.json of a language model?")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"the config of {name} has {key} = {value!r}; it must be a whole number of at least 1")
    return value


def _even(hidden: int, heads: int, name: str) -> int:
    if hidden % heads:
        raise UsageError(
            f"the config of {name} has no head_dim, and its hidden_size {hidden} does not divide by {heads} heads; "
            "one of the two is wrong"
        )
    return hidden // heads


def _window(config: Mapping[str, Any], family: str, name: str) -> int | None:
    if family.startswith("qwen") and config.get("use_sliding_window"):
        raise QuantlabError(f"{name} slides its window in some layers only, which the planner does not model yet")
    if family != "mistral" or config.get("sliding_window", 4096) is None:
        return None
    return _size(config, "sliding_window", name, default=4096)


def _biased(config: Mapping[str, Any], family: str) -> tuple[str, ...]:
    if family == "qwen2":
        return _ATTENTION[:3]
    return (*(_ATTENTION if config.get("attention_bias") else ()), *(_MLP if config.get("mlp_bias") else ()))
