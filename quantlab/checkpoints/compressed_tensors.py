"""Write and check a compressed-tensors checkpoint of integer weights: what vLLM and transformers load by themselves.

    config.json          the model's own, and `quantization_config`: bits, group size, symmetric or not, layers left out
    model.safetensors    NAME.weight_packed   int32   codes, packed end to end into words
                         NAME.weight_scale    [n, k/g]
                         NAME.weight_shape    [n, k], since the last word of a row may be part empty
                         every other tensor as it was
    tokenizer.json, ...  copied

A server believes config.json. If it says groups of 64 where the scales were made for 128, some servers refuse, and some
load noise; `verify` compares what config.json claims with the shapes and the scales that are really there.

Reference: compressed-tensors 0.19.0 ("pack-quantized") as llm-compressor 0.14 writes it. Left out: shards (the model
must fit in memory), activations in fewer bits, several formats in one model.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantlab.atomic import new_folder, require_space
from quantlab.core import Format, QuantizedTensor
from quantlab.errors import QuantlabError, unknown
from quantlab.formats.int_affine import IntAffine
from quantlab.models.folder import WEIGHTS, Checkpoint, examine
from quantlab.models.weights_file import Entry

VERSION = "0.19.0"
BESIDE = ("tokenizer*", "special_tokens_map.json", "generation_config.json", "chat_template*", "vocab.*", "merges.txt")
EMBEDDING = "embed_tokens.weight"


def write_checkpoint(source: Path, out: Path, quantized: Mapping[str, QuantizedTensor]) -> Path:
    """Write the model of `source` to the new folder `out`, with these layers quantized; whole or not at all.

    quantized: layer name, such as `model.layers.0.mlp.up_proj` -> its weights, all in one integer format. Raises
    QuantlabError for a layer that the model lacks, another shape, or a format that compressed-tensors cannot hold.
    """
    checkpoint = examine(source)
    matrices = {name.removesuffix(".weight"): e.shape for name, e in checkpoint.tensors.items() if _is_linear(name, e)}
    for name, Q in quantized.items():
        if name not in matrices:
            raise unknown("linear layer", name, matrices)
        if Q.shape != matrices[name]:
            raise QuantlabError(
                f"{name} is {list(matrices[name])}, its quantized weights {list(Q.shape)}; take its own"
            )
    settings = _settings(_one_format(quantized), sorted({*matrices, "lm_head"} - quantized.keys()))
    kept = {name: entry for name, entry in checkpoint.tensors.items() if name.removesuffix(".weight") not in quantized}
    nbytes = sum(Q.nbytes for Q in quantized.values()) + sum(entry.nbytes for entry in kept.values())
    require_space(out.parent, nbytes + 2**20, f"the checkpoint {out.name}")
    tensors = {f"{name}.{part}": value.contiguous() for name, Q in quantized.items() for part, value in Q.parts.items()}
    with new_folder(out) as folder:
        for path in {path for pattern in BESIDE for path in source.glob(pattern) if path.is_file()}:
            shutil.copyfile(path, folder / path.name)
        config = {**checkpoint.config, "quantization_config": settings}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file({**tensors, **_read(checkpoint, set(kept))}, folder / WEIGHTS, metadata={"format": "pt"})
    return out


def verify(folder: Path) -> dict[str, IntAffine]:
    """Check that config.json, shapes and scales agree; layer name -> its grid. Reads headers and scales only.

    Raises QuantlabError with the first thing that is wrong, before a server would load it.
    """
    checkpoint = examine(folder)
    grid = _grid(checkpoint.config.get("quantization_config"), folder / "config.json")
    layers = {n.removesuffix(".weight_packed") for n in checkpoint.tensors if n.endswith(".weight_packed")}
    if not layers:
        raise QuantlabError(
            f"{folder} holds no packed weights, yet its config.json says so; write the checkpoint again"
        )
    whole = _read(checkpoint, {f"{name}.{part}" for name in layers for part in ("weight_scale", "weight_shape")})
    for name in sorted(layers):
        _check_layer(name, checkpoint.tensors, whole, grid)
    return dict.fromkeys(sorted(layers), grid)


def _check_layer(name: str, entries: Mapping[str, Entry], read: Mapping[str, Tensor], grid: IntAffine) -> None:
    for part in ("weight_scale", "weight_shape"):
        if f"{name}.{part}" not in read:
            raise QuantlabError(f"{name} has packed weights but no {part}; write the checkpoint again")
    n, k = (int(size) for size in read[f"{name}.weight_shape"])
    scale = read[f"{name}.weight_scale"]
    words = math.ceil(k * grid.bits / 32)
    if (shape := entries[f"{name}.weight_packed"].shape) != (n, words):
        raise QuantlabError(
            f"{name} has packed weights of shape {list(shape)}; {grid.bits}-bit codes of [{n}, {k}] need [{n}, {words}]"
        )
    groups = k // (grid.group or k)
    if tuple(scale.shape) != (n, groups):
        raise QuantlabError(
            f"{name} has {scale.shape[1]} scales a row, groups of {k // scale.shape[1]}; config.json says groups of "
            f"{grid.group or k}, which need {groups}: one of the two is wrong"
        )
    if not (torch.isfinite(scale).all() and (scale > 0).all()):
        raise QuantlabError(f"{name} has a scale that is not a positive number; quantize the layer again")


def _one_format(quantized: Mapping[str, QuantizedTensor]) -> Format:
    found = {Q.fmt.name: Q.fmt for Q in quantized.values()}
    if len(found) != 1:
        raise QuantlabError(
            f"a checkpoint holds one format here, got {', '.join(sorted(found)) or 'none'}; quantize again"
        )
    (fmt,) = found.values()
    parts = next(iter(quantized.values())).parts
    if not isinstance(fmt.grid, IntAffine) or "weight_packed" not in parts:
        raise QuantlabError(f"{fmt.name} is no integer format of compressed-tensors; take one such as int4_g128")
    return fmt


def _settings(fmt: Format, ignore: list[str]) -> dict[str, Any]:
    """`quantization_config` of config.json."""
    grid = fmt.grid
    assert isinstance(grid, IntAffine)
    weights = {
        "num_bits": grid.bits,
        "type": "int",
        "symmetric": grid.symmetric,
        "strategy": "group" if grid.group else "channel",
        "group_size": grid.group,
        "dynamic": False,
        "observer": "minmax",
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "version": VERSION,
        "config_groups": {"group_0": group},
        "ignore": ignore,
    }


def _grid(settings: Any, where: Path) -> IntAffine:
    """What config.json claims."""
    try:
        if settings["format"] != "pack-quantized":
            raise QuantlabError(
                f"{where} says {settings['format']!r}; only pack-quantized checkpoints are checked here"
            )
        weights = settings["config_groups"]["group_0"]["weights"]
        return IntAffine(int(weights["num_bits"]), weights["group_size"], bool(weights["symmetric"]))
    except (KeyError, TypeError, ValueError) as error:
        raise QuantlabError(
            f"{where} holds no compressed-tensors settings; it is not a checkpoint of that kind"
        ) from error


def _is_linear(name: str, entry: Entry) -> bool:
    return name.endswith(".weight") and len(entry.shape) == 2 and not name.endswith(EMBEDDING)


def _read(checkpoint: Checkpoint, names: set[str]) -> dict[str, Tensor]:
    """The tensors of these names that are there, as they are stored."""
    read: dict[str, Tensor] = {}
    for shard in checkpoint.shards:
        with safe_open(shard, framework="pt") as tensors:
            read |= {name: tensors.get_tensor(name) for name in names & set(tensors.keys())}
    return read
