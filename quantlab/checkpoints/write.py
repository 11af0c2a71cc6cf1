"""Write a quantized checkpoint: a folder as the Hub has them, which a server loads by the name of its format.

    config.json                         the model's own, and `quantization_config` (quantlab.checkpoints.kinds)
    model.safetensors                   quantized layers by the names of their library, everything else as it was
    model-00001-of-00003.safetensors    instead, where the weights are more than `shard_bytes`, and an index
    tokenizer.json, ...                 copied
    README.md                           the model card: what it is, how it was made, how to load it
    quantlab.json                       SHA-256 of every file, and how it was made

The kind follows from the format: AWQ's bytes make an AWQ checkpoint. One folder holds one format. Everything that a
server would stumble on is refused before a byte is written; the folder appears under its name when it is whole, or not
at all.

Source: transformers 5.17, `save_pretrained` (names of files, index); huggingface_hub 1.30, `split_torch_state_dict`.
Not as there: a tensor larger than a shard does not jump ahead of the shard before it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from quantlab.atomic import new_folder, require_space
from quantlab.checkpoints.card import model_card
from quantlab.checkpoints.fused import check_fused
from quantlab.checkpoints.kind import Kind, Scope, is_head
from quantlab.checkpoints.kinds import kind_for
from quantlab.checkpoints.manifest import write_manifest
from quantlab.checkpoints.read import read_tensors
from quantlab.core import Parts, QuantizedTensor
from quantlab.errors import QuantlabError, unknown
from quantlab.models.folder import INDEX, WEIGHTS, Checkpoint, examine
from quantlab.models.weights_file import Entry, read_header

SHARD_BYTES = 5 * 10**9
BESIDE = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "generation_config.json", "chat_template*", "vocab.*",
    "merges.txt", "spiece.model", "sentencepiece*", "tekken.json", "LICENSE*", "NOTICE*",
)  # fmt: skip
EMBEDDINGS = ("embed_tokens", "embed_positions", "embed_in", "wte", "wpe")
_TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_ROOM = 2**20  # bytes for headers, index, card and manifest


@dataclass(frozen=True)
class _Piece:
    """One tensor of the new files; value: None where it is copied from the source."""

    name: str
    nbytes: int
    value: Tensor | None = None


def write_checkpoint(
    source: Path,
    out: Path,
    quantized: Mapping[str, QuantizedTensor],
    *,
    parameters: Mapping[str, Tensor] | None = None,
    made: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write the model of `source` to the new folder `out`, with these layers quantized; whole or not at all.

    quantized: layer name, such as `model.layers.0.mlp.up_proj` -> its weights, all in one format. parameters: other
    parameters that changed, by their full names (a norm that a scale was folded into, a bias); stored in the type that
    they have in the source. made: how it was made, for the card and the manifest: `model`, `revision`, `method`,
    `calibration`, `command`, `license`, `note`, and whatever else. shard_bytes: the most in one file.

    Raises QuantlabError for a source that is quantized already, layers or parameters that it lacks or that have another
    shape, formats that no kind holds or that no server mixes, a full disk, and an `out` that exists.
    """
    model = examine(source)
    if "quantization_config" in model.config:
        raise QuantlabError(f"{source} is quantized already; give the original model")
    if shard_bytes < 1:
        raise QuantlabError(f"shard_bytes must be positive, got {shard_bytes}")
    scope = _check_layers(model, quantized)
    kind, settings = _settings(quantized, scope)
    pieces = _pieces(model, kind, quantized, parameters or {})
    shards = _shards(pieces, shard_bytes)
    beside = _beside(source, model.config)
    nbytes = sum(piece.nbytes for piece in pieces) + sum(path.stat().st_size for path in beside)
    require_space(out.parent, nbytes + _ROOM, f"the checkpoint {out.name}")
    with new_folder(out) as folder:
        for path in beside:
            shutil.copyfile(path, folder / path.name)
        _write_json(folder / "config.json", {**model.config, "quantization_config": settings})
        if kind.settings_file:
            _write_json(folder / kind.settings_file, settings)
        _write_weights(folder, model, shards)
        card = model_card(model, kind, quantized, sum(piece.nbytes for piece in pieces), made or {})
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_manifest(folder, made)
    return out


def linear_layers(model: Checkpoint) -> dict[str, Entry]:
    """The matrices of a model that can be quantized, by layer: all but its embeddings."""
    layers = {name.removesuffix(".weight"): entry for name, entry in model.tensors.items() if name.endswith(".weight")}
    return {
        layer: entry
        for layer, entry in layers.items()
        if len(entry.shape) == 2 and layer.rpartition(".")[2] not in EMBEDDINGS
    }


def _check_layers(model: Checkpoint, quantized: Mapping[str, QuantizedTensor]) -> Scope:
    layers = linear_layers(model)
    if not quantized:
        raise QuantlabError("there is nothing to write: no layer is quantized")
    for name, Q in quantized.items():
        if is_head(name):
            raise QuantlabError(f"{name} is the output head, which servers expect in 16 bits; leave it as it is")
        if name not in layers:
            raise unknown("linear layer", name, (layer for layer in layers if not is_head(layer)))
        if Q.shape != layers[name].shape:
            raise QuantlabError(
                f"{name} is {list(layers[name].shape)}, its quantized weights {list(Q.shape)}; take its own"
            )
    check_fused(quantized, layers)
    kept = {*layers} - quantized.keys()
    if not any(is_head(name) for name in kept):
        kept.add("lm_head")  # tied to the embedding, and a linear layer all the same
    return Scope(tuple(quantized), tuple(sorted(kept)), _dtype(layers[next(iter(quantized))]))


def _dtype(entry: Entry) -> str:
    """The type of the model, by one of its weights."""
    if entry.dtype not in _TYPES:
        raise QuantlabError(f"{entry.name} is {entry.dtype}, no plain floating-point type; give the original model")
    return str(_TYPES[entry.dtype]).removeprefix("torch.")


def _settings(quantized: Mapping[str, QuantizedTensor], scope: Scope) -> tuple[Kind, dict[str, Any]]:
    """The kind that holds the layers, and its settings: the same for all of them."""
    formats = {Q.fmt.name: Q.fmt for Q in quantized.values()}
    kinds = {name: kind_for(fmt) for name, fmt in formats.items()}
    if len(formats) > 1:
        raise QuantlabError(f"a checkpoint holds one format, got {', '.join(sorted(formats))}; quantize again")
    (kind,) = kinds.values()
    settings: dict[str, Any] = {}
    for name, Q in quantized.items():
        now = kind.settings(Q.fmt, scope)
        if settings and now != settings:
            first = next(iter(quantized))
            raise QuantlabError(
                f"{name} and {first} are in {Q.fmt.name} with different options; quantize one of them again"
            )
        settings = now
    return kind, settings


def _pieces(
    model: Checkpoint, kind: Kind, quantized: Mapping[str, QuantizedTensor], parameters: Mapping[str, Tensor]
) -> list[_Piece]:
    """Every tensor of the new files, in the order of the source."""
    weights = {f"{name}.weight": name for name in quantized}
    for name in parameters:
        if name in weights:
            raise QuantlabError(f"{name} is quantized and among the changed parameters; leave it out of one of the two")
        if name not in model.tensors:
            raise unknown("parameter", name, model.tensors)
    pieces = []
    for name, entry in model.tensors.items():
        if name in weights:
            layer = weights[name]
            stored = _store(kind, layer, quantized[layer], entry)
            pieces += [_Piece(f"{layer}.{part}", value.nbytes, value) for part, value in stored.items()]
        elif name in parameters:
            pieces.append(_Piece(name, entry.nbytes, _as_in(entry, parameters[name])))
        else:
            pieces.append(_Piece(name, entry.nbytes))
    return pieces


def _store(kind: Kind, layer: str, Q: QuantizedTensor, entry: Entry) -> Parts:
    try:
        return kind.store(Q, _dtype(entry))
    except ValueError as error:
        raise QuantlabError(f"{layer}: {error}") from error


def _as_in(entry: Entry, value: Tensor) -> Tensor:
    """A parameter that changed, in the shape and the type that the source has it in."""
    if tuple(value.shape) != entry.shape:
        raise QuantlabError(f"{entry.name} is {list(entry.shape)}, its new values {list(value.shape)}; take its own")
    cast = value.to(_TYPES.get(entry.dtype, value.dtype))
    if cast.is_floating_point() and not torch.isfinite(cast).all():
        raise QuantlabError(f"{entry.name} is not finite in {entry.dtype}; scale the model less")
    return cast


def _shards(pieces: Sequence[_Piece], shard_bytes: int) -> dict[str, list[_Piece]]:
    """File name -> its tensors: a new file whenever the next tensor would make one too large."""
    groups: list[list[_Piece]] = [[]]
    room = shard_bytes
    for piece in pieces:
        if groups[-1] and piece.nbytes > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(piece)
        room -= piece.nbytes
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    stem, _, end = WEIGHTS.partition(".")
    return {f"{stem}-{i:05d}-of-{len(groups):05d}.{end}": group for i, group in enumerate(groups, 1)}


def _beside(source: Path, config: Mapping[str, Any]) -> list[Path]:
    """The files that are copied: tokenizer and licence, and the model's own code where it needs any."""
    patterns = (*BESIDE, "*.py") if "auto_map" in config else BESIDE
    return sorted({path for pattern in patterns for path in source.glob(pattern) if path.is_file()})


def _own(value: Tensor) -> Tensor:
    """The tensor in memory of its own: a file cannot hold two that share any."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(folder: Path, model: Checkpoint, shards: Mapping[str, Sequence[_Piece]]) -> None:
    """The shards, one after the other in memory, and their index where there are several."""
    places = {name: shard for shard in model.shards for name in read_header(shard)}
    for filename, pieces in shards.items():
        tensors = {piece.name: _own(piece.value) for piece in pieces if piece.value is not None}
        tensors |= read_tensors(places, [piece.name for piece in pieces if piece.value is None])
        try:
            save_file(tensors, folder / filename, metadata={"format": "pt"})
        except SafetensorError as error:
            raise QuantlabError(f"cannot write {filename} ({error}); free some space or choose another disk") from error
    if len(shards) > 1:
        total = sum(piece.nbytes for pieces in shards.values() for piece in pieces)
        index = {
            "metadata": {"total_parameters": model.parameters, "total_size": total},
            "weight_map": {piece.name: filename for filename, pieces in shards.items() for piece in pieces},
        }
        _write_json(folder / INDEX, index)
