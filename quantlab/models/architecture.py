"""Is it a language model that transformers knows, unquantized, without code of its own? config.json tells."""

from __future__ import annotations

from typing import Any

from quantlab.errors import QuantlabError


def known_classes(model_type: str) -> tuple[str, ...]:
    """Names of the causal language models of transformers for a model type; empty for an unknown one.

    >>> known_classes("llama")
    ('LlamaForCausalLM',)
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, ())
    return (names,) if isinstance(names, str) else tuple(names)


def needs_code(config: dict[str, Any]) -> bool:
    """Whether the model can only run with the Python files that come with it."""
    return not known_classes(str(config.get("model_type"))) and "AutoModelForCausalLM" in _auto_map(config)


def check_architecture(config: dict[str, Any], name: str, trusted: bool = False) -> None:
    """Raise QuantlabError unless this config can be loaded here. config: the content of config.json."""
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unnamed") if isinstance(quantization, dict) else "unnamed"
        raise QuantlabError(f"{name} is quantized already ({method}); give the original model")
    model_type = str(config.get("model_type"))
    if needs_code(config):
        _check_code(config, name, trusted)
        return
    known, asked = known_classes(model_type), config.get("architectures") or []
    if not known:
        raise QuantlabError(
            f"{name} is of type {model_type!r}, which is not a language model that transformers {_version()} knows; "
            "choose another model, or a newer quantlab"
        )
    if asked and not {one.lower() for one in known} & {str(one).lower() for one in asked}:
        raise QuantlabError(f"{name} is a {asked[0]}, not a language model ({known[0]}); choose another model")


def _check_code(config: dict[str, Any], name: str, trusted: bool) -> None:
    if not trusted:
        raise QuantlabError(
            f"{name} runs only with Python code of its own, which is refused; read that code, "
            f"and if you trust it add --trust-remote-code {name}"
        )
    if elsewhere := [str(where) for where in _auto_map(config).values() if "--" in str(where)]:
        raise QuantlabError(f"{name} takes its code from another repository ({elsewhere[0]}), which no commit pins")


def _auto_map(config: dict[str, Any]) -> dict[str, Any]:
    auto_map = config.get("auto_map")
    return auto_map if isinstance(auto_map, dict) else {}


def _version() -> str:
    from importlib.metadata import version

    return version("transformers")
