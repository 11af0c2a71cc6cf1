"""Read a quantized checkpoint: headers first, so that what is loaded is what config.json says, and no more.

    outline            config.json and the headers: which layers, in which format, of which shape, in which file
    read_checkpoint    layer name -> its weights as they are stored
    dequantized        parameter name -> values, every parameter of the model

`outline` reads a few kilobytes for each layer. It compares types and shapes of all tensors with what the settings
imply, so a wrong group size, a missing scale or a file that is cut short is an error before any weight is loaded; and
since a tensor is never longer than its file, no crafted header makes a reader allocate more.

>>> layers = read_checkpoint(Path("llama-awq"))                                                 # doctest: +SKIP
>>> layers["model.layers.0.mlp.up_proj"].dequantize()                                           # doctest: +SKIP
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantlab.checkpoints.kind import Found, Kind, check
from quantlab.checkpoints.kinds import KINDS, kind_of
from quantlab.core import Format, QuantizedTensor
from quantlab.errors import QuantlabError
from quantlab.models.folder import read_json, weight_files
from quantlab.models.weights_file import Entry, read_header


@dataclass(frozen=True)
class Layer:
    """A quantized layer as the headers tell it; parts: the names of its tensors behind its own, and their headers."""

    fmt: Format
    shape: tuple[int, int]
    parts: dict[str, Entry]


@dataclass(frozen=True)
class Outline:
    """What a checkpoint holds, before any weight is loaded. plain: the tensors that are not quantized."""

    folder: Path
    config: dict[str, Any]
    kind: Kind
    layers: dict[str, Layer]
    plain: dict[str, Entry]
    places: dict[str, Path]  # tensor -> its file


def outline(folder: Path) -> Outline:
    """Read config.json and the headers of a quantized checkpoint, and check that they tell the same.

    Raises QuantlabError for a model that is not quantized, or in a way that is not read here; for a file that is not
    whole; and for the first layer whose tensors are not those that config.json implies.
    """
    config = read_json(folder / "config.json")
    kind = _kind(config, folder)
    settings = config["quantization_config"]
    places: dict[str, Path] = {}
    entries: dict[str, Entry] = {}
    for shard in weight_files(folder):
        header = read_header(shard)
        entries |= header
        places |= dict.fromkeys(header, shard)
    found, plain = sort_layers(entries, kind)
    if not found:
        raise QuantlabError(f"{folder} holds no quantized layer, yet its config.json says {kind.name}; get it again")
    layers = {}
    for name, parts in found.items():
        read = partial(_read_part, places, name)
        layers[name] = _layer(kind, settings, Found(name, parts, read), folder / "config.json")
    return Outline(folder, config, kind, layers, plain, places)


def read_checkpoint(folder: Path) -> dict[str, QuantizedTensor]:
    """Every quantized layer of a checkpoint of any kind: layer name -> its weights as they are stored."""
    return load_layers(outline(folder))


def dequantized(folder: Path) -> dict[str, Tensor]:
    """Every parameter of a checkpoint by its name: quantized weights in float32, the others as they are stored."""
    found = outline(folder)
    weights = {f"{name}.weight": Q.dequantize() for name, Q in load_layers(found).items()}
    return weights | read_tensors(found.places, found.plain)


def load_layers(found: Outline, names: Iterable[str] | None = None) -> dict[str, QuantizedTensor]:
    """The layers of these names, or all of them."""
    chosen = found.layers if names is None else {name: found.layers[name] for name in names}
    wanted = [f"{name}.{part}" for name, layer in chosen.items() for part in layer.parts]
    tensors = read_tensors(found.places, wanted)
    loaded = {}
    for name, layer in chosen.items():
        stored = {part: tensors.pop(f"{name}.{part}") for part in layer.parts}
        try:
            loaded[name] = QuantizedTensor(layer.fmt, found.kind.restore(layer.fmt, stored), layer.shape)
        except (KeyError, TypeError, ValueError) as error:
            raise QuantlabError(f"{name} in {found.folder} is damaged ({error}); get it again") from error
    return loaded


def read_tensors(places: Mapping[str, Path], names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of these names, each from its file, file by file."""
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name in names:
        by_file[places[name]].append(name)
    tensors: dict[str, Tensor] = {}
    for path, inside in by_file.items():
        try:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in inside}
        except (OSError, SafetensorError) as error:
            raise QuantlabError(f"cannot read {path} ({error}); get it again") from error
    return tensors


def _kind(config: dict[str, Any], folder: Path) -> Kind:
    if (kind := kind_of(config)) is not None:
        return kind
    settings = config.get("quantization_config")
    if not settings:
        raise QuantlabError(f"{folder} is not quantized, its config.json has no quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    raise QuantlabError(f"{folder} is quantized by {method!r}, which is not read here; known are {', '.join(KINDS)}")


def sort_layers(entries: Mapping[str, Entry], kind: Kind) -> tuple[dict[str, dict[str, Entry]], dict[str, Entry]]:
    """(layer -> part -> header, the tensors that belong to no quantized layer).

    A layer is quantized if it has any tensor that only such layers have: one of the kind's parts, `weight` apart.
    """
    suffixes = sorted((*kind.parts, *kind.aside), key=len, reverse=True)
    candidates: dict[str, dict[str, Entry]] = defaultdict(dict)
    for name, entry in entries.items():
        suffix = next((suffix for suffix in suffixes if name.endswith(f".{suffix}")), None)
        if suffix is not None:
            candidates[name.removesuffix(f".{suffix}")][suffix] = entry
    marks = set(kind.parts) - {"weight"}
    found = {name: parts for name, parts in candidates.items() if marks & parts.keys()}
    inside = {entry.name for parts in found.values() for entry in parts.values()}
    return found, {name: entry for name, entry in entries.items() if name not in inside}


def _layer(kind: Kind, settings: Mapping[str, Any], found: Found, where: Path) -> Layer:
    try:
        fmt, shape = kind.layer(settings, found)
    except QuantlabError:
        raise
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise QuantlabError(f"{where} makes no sense for {found.name} ({what}); get it again") from error
    if min(shape) < 1:
        raise QuantlabError(f"{found.name} has shape {list(shape)}; get the model again")
    expected = kind.expected(fmt, shape)
    check(found, fmt, shape, expected)
    return Layer(fmt, shape, {part: found.entries[part] for part in expected})


def _read_part(places: Mapping[str, Path], layer: str, part: str) -> Tensor:
    name = f"{layer}.{part}"
    return read_tensors(places, [name])[name]
