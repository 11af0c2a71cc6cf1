"""Real models by name: the numbers of their config.json, from the Hub repository and month beside each.

>>> shape_of("llama-3.1-8b").parameters
8030261248
>>> shape_of("70b").name  # as old guides write it
'llama-2-70b'
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from quantlab.assets import bundled
from quantlab.errors import QuantlabError, unknown
from quantlab.plan.blocks import TensorSpec
from quantlab.plan.configs import read_config, shape_from_config
from quantlab.plan.model_data import ALIASES, ROWS
from quantlab.plan.shapes import KINDS, LINEAR, ModelShape

__all__ = [
    "KINDS", "LINEAR", "MODELS", "TINY", "ModelShape", "TensorSpec",
    "canonical", "model_names", "read_config", "shape_from_config", "shape_of",
]  # fmt: skip

TINY = "tiny"  # the bundled story-teller; its shape is read from its own config.json


class _Models(Mapping[str, ModelShape]):
    """Name -> shape; each is built when it is first asked for."""

    def __init__(self) -> None:
        self._built: dict[str, ModelShape] = {}

    def __getitem__(self, name: str) -> ModelShape:
        if name not in self._built:
            (layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, context), repo, date, more = ROWS[name]
            self._built[name] = ModelShape(
                name, layers, hidden, intermediate, heads, kv_heads, head_dim, vocab, context,
                source=f"config.json of {repo}, {date}", **more,
            )  # fmt: skip
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(ROWS)

    def __len__(self) -> int:
        return len(ROWS)

    def __contains__(self, name: object) -> bool:
        return name in ROWS


MODELS: Mapping[str, ModelShape] = _Models()
_REPOSITORIES = {row[1].lower(): name for name, row in ROWS.items()}


def model_names() -> list[str]:
    """Every name that `shape_of` knows, smallest model first; the aliases of old guides left out."""
    return [TINY, *sorted(MODELS, key=lambda name: MODELS[name].parameters)]


def canonical(model: str) -> str | None:
    """The name in the table that a spelling stands for, or None: an alias, a repository of the Hub, any case.

    >>> canonical("meta-llama/Llama-3.3-70B-Instruct"), canonical("13B"), canonical("gpt-2")
    ('llama-3.3-70b', 'llama-2-13b', None)
    """
    name = model.strip().lower()
    name = ALIASES.get(name, name)
    for spelling in (name, _REPOSITORIES.get(name), name.removesuffix("-instruct"), name.removesuffix("-it")):
        if spelling == TINY or spelling in ROWS:
            return spelling
    return None


def shape_of(model: str | os.PathLike[str] | ModelShape) -> ModelShape:
    """The shape of a model: a name such as `llama-3.1-8b` or `tiny`, a model's folder, or a config.json.

    Raises UsageError for an unknown name (with the nearest one), QuantlabError for a config that cannot be read.
    """
    if isinstance(model, ModelShape):
        return model
    name = canonical(str(model))
    if name == TINY:
        return read_config(bundled("assets/story-model"), TINY)
    if name is not None:
        return MODELS[name]
    path = Path(model)
    if path.exists():
        return read_config(path)
    if path.suffix == ".json":
        raise QuantlabError(f"there is no {path}; give a model's folder or its config.json")
    raise unknown("model", str(model).strip().lower(), model_names())
