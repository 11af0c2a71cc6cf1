"""What every kind of checkpoint answers: which formats it holds, how config.json says so, how a layer lies in the file.

A checkpoint is three statements about the same weights, and each can be wrong on its own:

    config.json     "quantization_config": bits, group, symmetric or not, which layers were left out
    the headers     names, types and shapes of the tensors
    the tensors     codes, scales, zero points

A `Kind` turns a format into the first, and the first into a format again. From the format and the shape of a layer
follow the names, types and shapes that the headers must have (`expected`), so a reader knows that the first two
statements agree before it loads the third, and never loads more than the file holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from quantlab.core import Format, Parts, QuantizedTensor
from quantlab.errors import QuantlabError
from quantlab.models.weights_file import Entry

Settings = Mapping[str, Any]  # `quantization_config` of config.json
FLOATS = ("F16", "BF16", "F32")  # types that a scale may have, as safetensors spells them
SMALL = 2**16  # bytes: a tensor that says what a layer is (its shape, its settings), not what is in it


class NotReadHereError(ValueError):
    """Settings that a library may well write, in a way that is not read here: no fault of the checkpoint."""


@dataclass(frozen=True)
class Scope:
    """What the settings must say beside the format: which linear layers are quantized, which are not, the model's type.

    dtype: "bfloat16", ..., of the weights before they were quantized.
    """

    quantized: tuple[str, ...]
    kept: tuple[str, ...]
    dtype: str

    @property
    def left_out(self) -> tuple[str, ...]:
        """Layers that were kept although their like are quantized: all but the output head."""
        return tuple(name for name in self.kept if not is_head(name))


def is_head(layer: str) -> bool:
    """Whether a layer of this name is the output head, which every library keeps in 16 bits.

    >>> is_head("lm_head"), is_head("model.layers.0.mlp.up_proj")
    (True, False)
    """
    return layer.rpartition(".")[2] in ("lm_head", "embed_out")


@dataclass(frozen=True)
class Part:
    """How a tensor must lie in the file: the types it may have, its shape, which axis counts groups (if one does).

    shape: None where it is read before anything else, and as long as it needs to be.
    """

    dtypes: tuple[str, ...]
    shape: tuple[int, ...] | None
    groups: int | None = None


@dataclass(frozen=True)
class Found:
    """A quantized layer of a file: the headers of its tensors, and a way to read those that are small."""

    name: str
    entries: Mapping[str, Entry]
    read: Callable[[str], Tensor]

    def entry(self, part: str) -> Entry:
        """The header of one of its tensors; raises QuantlabError where there is none."""
        if part not in self.entries:
            there = ", ".join(sorted(self.entries))
            raise QuantlabError(f"{self.name} has {there} but no {part}; write the checkpoint again")
        return self.entries[part]

    def matrix(self, part: str) -> tuple[int, int]:
        """The two sizes of one of its tensors."""
        shape = self.entry(part).shape
        if len(shape) != 2:
            raise QuantlabError(
                f"{self.name}.{part} has shape {list(shape)}, not two sizes; write the checkpoint again"
            )
        return shape[0], shape[1]

    def small(self, part: str) -> Tensor:
        """A tensor that says what the layer is."""
        if (nbytes := self.entry(part).nbytes) > SMALL:
            raise QuantlabError(f"{self.name}.{part} takes {nbytes:,} bytes, {SMALL:,} are plenty; get the model again")
        return self.read(part)


class Kind(ABC):
    """One way in which a library stores quantized layers. The four of them are in `kinds.KINDS`."""

    name: str  # quant_method of config.json
    loaded_by: str  # who loads it, for people
    packings: tuple[type, ...]  # of the formats that it holds
    parts: tuple[str, ...]  # names of a layer's tensors behind the layer's own
    aside: tuple[str, ...] = ()  # tensors beside them that say nothing of the weights
    settings_file: str = ""  # a file that repeats the settings, for older loaders

    def holds(self, fmt: Format) -> bool:
        """Whether layers of this format can be stored."""
        return isinstance(fmt.packing, self.packings)

    @abstractmethod
    def settings(self, fmt: Format, scope: Scope) -> dict[str, Any]:
        """`quantization_config`, as the library spells it; raises QuantlabError for what no server would load."""

    def store(self, Q: QuantizedTensor, dtype: str) -> Parts:
        """The tensors of a layer whose weights were `dtype`; raises ValueError where a server would change them."""
        return Q.parts

    @abstractmethod
    def layer(self, settings: Settings, found: Found) -> tuple[Format, tuple[int, int]]:
        """Format and shape [n, k] of a layer; KeyError, TypeError or ValueError for settings that make no sense.

        NotReadHereError, a ValueError, for those that make sense elsewhere.
        """

    @abstractmethod
    def expected(self, fmt: Format, shape: tuple[int, int]) -> dict[str, Part]:
        """The tensors that a layer of this format and shape must have, by their names."""

    def restore(self, fmt: Format, stored: Parts) -> Parts:
        """The inverse of `store`; raises ValueError for values that no library writes."""
        return stored


def check(found: Found, fmt: Format, shape: tuple[int, int], expected: Mapping[str, Part]) -> None:
    """Raise QuantlabError unless the headers of a layer are those that its format and shape imply."""
    n, k = shape
    group = getattr(fmt.grid, "group", None) or k
    if k % group:
        raise QuantlabError(
            f"{found.name} has rows of {k} weights, which config.json's groups of {group} do not divide; one is wrong"
        )
    for name, part in expected.items():
        entry = found.entry(name)
        if part.groups is not None and entry.shape != part.shape and len(entry.shape) == len(part.shape or ()):
            groups = entry.shape[part.groups]
            if groups and k % groups == 0 and groups != k // group:
                raise QuantlabError(
                    f"{found.name} has a scale for each {k // groups} weights of a row, config.json says groups of "
                    f"{group}: one of the two is wrong"
                )
        if (part.shape is not None and entry.shape != part.shape) or entry.dtype not in part.dtypes:
            needed = " or ".join(part.dtypes) + (f" {list(part.shape)}" if part.shape is not None else "")
            raise QuantlabError(
                f"{found.name}.{name} is {entry.dtype} {list(entry.shape)}; {fmt.name} of [{n}, {k}] needs {needed}: "
                "config.json and the weights do not agree"
            )


def named(stem: str, group: int | None) -> str:
    """The name of a format with this group.

    >>> named("int4", 128), named("int4", None)
    ('int4_g128', 'int4')
    """
    return f"{stem}_g{group}" if group else stem


def group_of(settings: Settings) -> int | None:
    """Weights in a group; None for a whole row.

    >>> group_of({"group_size": -1}) is None
    True
    """
    group = settings["group_size"]
    if type(group) is not int or not (group == -1 or group > 0):
        raise ValueError(f"group_size is {group!r}")
    return None if group == -1 else group
