"""What was asked of `quantize`, checked before any work is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from quantlab.core import Format
from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.formats import catalog as formats
from quantlab.methods import catalog as methods
from quantlab.methods.catalog import Method
from quantlab.models.activations import ROUNDINGS
from quantlab.models.calibration import Calibration
from quantlab.models.families import family_of
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers

KEEP = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class Request:
    """What was asked for, checked."""

    loaded: LoadedModel
    method: Method
    fmt: Format
    calibration: Calibration | None
    keep: tuple[str, ...]
    sequential: bool
    activations: str | None
    options: dict[str, Any] = field(default_factory=dict)  # of the method's functions

    def keeps(self, name: str) -> bool:
        """Whether the layer of this full name stays as it is."""
        return any(_matches(name, pattern) for pattern in self.keep)

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the method with those of the options that it takes."""
        return partial(function, **{name: self.options[name] for name in _options(function) if name in self.options})


def check(
    loaded: LoadedModel, method: str | Method, fmt: str | Format, calibration: Calibration | None,
    keep: tuple[str, ...], sequential: bool, activations: str | None, options: dict[str, Any],
) -> Request:  # fmt: skip
    """The arguments of `quantize`, looked up and checked against the model's layers."""
    chosen = methods.get(method) if isinstance(method, str) else method
    ours = {name for function in (chosen.quantize, chosen.scale, chosen.together) for name in _options(function)}
    theirs = set(formats.options(fmt)) if isinstance(fmt, str) and fmt in formats.BUILDERS else set()
    for name in options:
        if name not in ours | theirs:
            raise unknown(
                f"option of {chosen.name} and {fmt if isinstance(fmt, str) else fmt.name}", name, ours | theirs
            )
    if isinstance(fmt, str):
        fmt = formats.get(fmt, **{name: value for name, value in options.items() if name in theirs})
    if activations is not None and activations not in ROUNDINGS:
        raise unknown("rounding of activations", activations, ROUNDINGS)
    if calibration is None and (chosen.needs_stats or chosen.scale is not None):
        calibration = Calibration()
    if calibration is not None:
        family_of(loaded.model)
    rest = {name: value for name, value in options.items() if name not in theirs}
    asked = Request(loaded, chosen, fmt, calibration, keep, sequential, activations, rest)
    _check_layers(asked)
    return asked


def _options(function: Callable[..., Any] | None) -> list[str]:
    """The keyword-only arguments of a method's function."""
    if function is None:
        return []
    return [name for name, one in inspect.signature(function).parameters.items() if one.kind is one.KEYWORD_ONLY]


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.endswith(f".{pattern}") or fnmatchcase(name, pattern)


def _check_layers(asked: Request) -> None:
    """Every layer that is to be quantized fits the format, and every name to keep exists."""
    ends = outer(asked.loaded.model)
    everything = [*(name for name, _ in linear_layers(asked.loaded.model)), *ends]
    for pattern in asked.keep:
        if pattern not in KEEP and not any(_matches(name, pattern) for name in everything):
            raise unknown("layer to keep", pattern, everything)
    quantized = [name for name in everything if not asked.keeps(name)]
    if not quantized:
        raise UsageError(f"nothing is left to quantize in {asked.loaded.source.name}; keep fewer layers")
    if len({id(end.weight) for end in ends.values()}) < len(ends) and 0 < len(ends.keys() & set(quantized)) < len(ends):
        raise UsageError(f"{' and '.join(ends)} are one table in this model; keep both of them or neither")
    for name in quantized:
        k = int(asked.loaded.model.get_submodule(name).weight.shape[1])  # type: ignore[index]
        if not asked.fmt.divides(k):
            raise QuantlabError(
                f"{name} has rows of {k} weights, which {asked.fmt.name} cannot divide into blocks of "
                f"{asked.fmt.layout.block}; choose a group that divides {k}, another format, or keep this layer"
            )


def outer(model: Any) -> dict[str, Any]:
    """Embedding and output head of a transformers model by their full names; empty for another kind of model."""
    if not hasattr(model, "get_input_embeddings"):
        return {}
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {name: module for name, module in model.named_modules() if any(module is end for end in ends)}
