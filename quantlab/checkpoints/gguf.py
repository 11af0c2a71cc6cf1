"""Write a Hugging Face checkpoint as one GGUF file, which llama.cpp maps into memory and runs.

    header | metadata: key -> value | tensors: name, shape, type, offset | padding | data

Metadata holds the sizes of the model under the name of its family (quantlab.checkpoints.gguf_families: Llama, Mistral,
Qwen2, Qwen3), its tokenizer (gguf_tokenizer) and its chat template. Dimensions are listed fastest first: a weight
[n, k] is written as (k, n), its bytes stay as they are. Norms and other vectors are always float32. Tied embeddings are
written once; llama.cpp uses them for the output too. Matrices that were quantized come as the blocks of their GGUF
format, byte for byte; of a whole file in one of llama.cpp's mixtures, quantlab.checkpoints.gguf_mixtures makes it.

Reference: llama.cpp's convert_hf_to_gguf.py (release of llama-cpp-python 0.3.36), which writes the same bytes for every
tensor and the same metadata but for the way it spells general.name and what it finds in a model card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGML_QUANT_VERSION, LlamaFileType, size_label
from safetensors import safe_open
from torch import Tensor

from quantlab.checkpoints import gguf_families as families
from quantlab.checkpoints.gguf_rope import interleave_pairs, rope, rope_factors, scaling_metadata
from quantlab.checkpoints.gguf_tokenizer import read_tokenizer
from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError, unknown
from quantlab.formats.gguf_file import FORMATS, Later, save_gguf
from quantlab.formats.gguf_head import TYPES
from quantlab.formats.gguf_values import Kind, Value
from quantlab.models.folder import Checkpoint, examine, read_json
from quantlab.models.weights_file import read_header


@dataclass(frozen=True)
class _Dtype:
    """How matrices are stored: the torch type, and GGUF's number for a file made of it."""

    torch: torch.dtype
    file: LlamaFileType


DTYPES = {
    "bf16": _Dtype(torch.bfloat16, LlamaFileType.MOSTLY_BF16),
    "f16": _Dtype(torch.float16, LlamaFileType.MOSTLY_F16),
    "f32": _Dtype(torch.float32, LlamaFileType.ALL_F32),
}
_VECTOR = "f32"
# how a model's makers suggest to sample: name in generation_config.json -> GGUF's, which llama.cpp's server obeys
_SUGGESTED = {
    "temperature": ("temp", Kind.FLOAT32),
    "top_p": ("top_p", Kind.FLOAT32),
    "top_k": ("top_k", Kind.INT32),
    "min_p": ("min_p", Kind.FLOAT32),
    "repetition_penalty": ("penalty_repeat", Kind.FLOAT32),
}
# what a file is called that is mostly of a type, where that is not MOSTLY_ and the type's name
_FILES = {"q3_k": "Q3_K_M", "q4_k": "Q4_K_M", "q5_k": "Q5_K_M"}


def write_gguf(
    folder: Path, out: Path, dtype: str = "bf16", quantized: Mapping[str, QuantizedTensor] | None = None
) -> Path:
    """Convert a checkpoint (config.json, safetensors, tokenizer.json) into `out`, whole or not at all.

    dtype: `bf16`, `f16` or `f32`, for the matrices. quantized: name of a layer in the model, such as
    `model.layers.0.mlp.up_proj`, -> its weights in a GGUF format, stored instead. Tensors pass through memory one at a
    time. Raises QuantlabError for another architecture, missing or surplus tensors, wrong shapes, numbers that float16
    cannot hold, and a tokenizer that GGUF cannot express.
    """
    if dtype not in DTYPES:
        raise unknown("GGUF data type", dtype, DTYPES)
    found = examine(folder)
    family = families.family_of(found.config, folder / "config.json")
    tensors = _tensors(found, family, dtype, quantized or {})
    return save_gguf(out, _metadata(found, family, tensors, DTYPES[dtype]), tensors)


def _metadata(
    found: Checkpoint, family: families.Family, tensors: Mapping[str, Later], stored: _Dtype
) -> dict[str, Value]:
    """What the file says about the model: its kind and size, the suggested sampling, its shape, its tokenizer."""
    weights = sum(math.prod(tensor.shape) for tensor in tensors.values())
    beside = found.folder / "generation_config.json"
    suggested = read_json(beside) if beside.is_file() else {}
    return {
        "general.architecture": Value(Kind.STRING, family.architecture),
        "general.type": Value(Kind.STRING, "model"),
        **{
            f"general.sampling.{key}": Value(kind, suggested[name])
            for name, (key, kind) in _SUGGESTED.items()
            if suggested.get(name) is not None
        },
        "general.name": Value(Kind.STRING, found.folder.name),
        "general.size_label": Value(Kind.STRING, size_label(weights, 0, 0, 0)),
        **{f"{family.architecture}.{key}": value for key, value in _sizes(found.config, family).items()},
        "general.file_type": Value(Kind.UINT32, int(_file_type(tensors, stored))),
        "general.quantization_version": Value(Kind.UINT32, GGML_QUANT_VERSION),
        **read_tokenizer(found.folder, found.config["vocab_size"]).metadata(),
    }


def _sizes(config: dict[str, Any], family: families.Family) -> dict[str, Value]:
    """The shape of the model and its rotary embeddings; llama.cpp works out the size of a head where none is stated."""
    head = families.head_dim(config)
    counts = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": families.kv_heads(config),
    }
    if config.get("head_dim") is not None:
        counts |= {"attention.key_length": head, "attention.value_length": head}
    if family.counts_tokens:
        counts |= {"vocab_size": config["vocab_size"], "rope.dimension_count": head}
    return {
        **{name: Value(Kind.UINT32, count) for name, count in counts.items()},
        **{f"rope.scaling.{name}": value for name, value in scaling_metadata(config).items()},
        "rope.freq_base": Value(Kind.FLOAT32, rope(config)["rope_theta"]),
        "attention.layer_norm_rms_epsilon": Value(Kind.FLOAT32, config["rms_norm_eps"]),
    }


def _file_type(tensors: Mapping[str, Later], stored: _Dtype) -> LlamaFileType:
    """The label of the whole file: the quantized type that takes most bytes, or the matrices' data type."""
    total: dict[str, int] = {}
    for tensor in tensors.values():
        if tensor.type in FORMATS:
            total[tensor.type] = total.get(tensor.type, 0) + TYPES[tensor.type].bytes_for(tensor.shape)
    if not total:
        return stored.file
    most = max(total, key=lambda kind: total[kind])
    return LlamaFileType["MOSTLY_" + _FILES.get(most, most.upper())]


def _tensors(
    found: Checkpoint, family: families.Family, dtype: str, quantized: Mapping[str, QuantizedTensor]
) -> dict[str, Later]:
    """Every tensor of the file in the order of the model; the checkpoint must hold exactly these."""
    config = found.config
    shapes = families.expected_shapes(family, config)
    _check_tensors(found, shapes)
    matrices = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) > 1}
    for layer in quantized:
        if layer not in matrices:
            raise unknown("matrix of the model", layer, matrices)
    shard = {name: path for path in found.shards for name in read_header(path)}
    tensors = {}
    if (factors := rope_factors(config, families.head_dim(config))) is not None:
        tensors["rope_freqs.weight"] = _ready(factors)
    for name, shape in shapes.items():
        turned = families.turned_heads(name, family, config)
        Q = quantized.get(name.removesuffix(".weight")) if len(shape) > 1 else None
        if Q is not None:
            tensors[families.gguf_name(name)] = _blocks(name, shape, Q, turned)
        else:
            kind = dtype if len(shape) > 1 else _VECTOR
            tensors[families.gguf_name(name)] = _plain(name, shape, shard[name], kind, turned)
    return tensors


def _check_tensors(found: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
    present = {name for name in found.tensors if not name.endswith("rotary_emb.inv_freq")}  # old ones carry a buffer
    if found.config.get("tie_word_embeddings"):
        present.discard("lm_head.weight")
    for problem, names in (("lacks", set(shapes) - present), ("has unknown", present - set(shapes))):
        if names:
            what = f"{min(names)}, {len(names)} in all"
            raise QuantlabError(
                f"{found.folder} {problem} tensors ({what}); it is not the whole model of its config.json"
            )
    for name, shape in shapes.items():
        if (real := found.tensors[name].shape) != shape:
            raise QuantlabError(
                f"{name} in {found.folder} has shape {list(real)} and config.json says {list(shape)}; "
                "they do not belong together"
            )


def _ready(values: Tensor) -> Later:
    """A vector that is not in the checkpoint."""
    return Later(_VECTOR, tuple(values.shape), lambda: values)


def _plain(name: str, shape: tuple[int, ...], shard: Path, kind: str, turned: int | None) -> Later:
    """A tensor of the checkpoint in 16 or 32 bits."""

    def read() -> Tensor:
        with safe_open(shard, framework="pt") as tensors:
            values: Tensor = tensors.get_tensor(name)
        converted = values.to(DTYPES[kind].torch)
        if kind == "f16" and torch.isinf(converted).any():
            top = values.abs().max().item()
            raise QuantlabError(
                f"{families.gguf_name(name)} reaches {top:g}, beyond float16's 65504; write the file as bf16"
            )
        return converted if turned is None else interleave_pairs(converted, turned)

    return Later(kind, shape, read)


def _blocks(name: str, shape: tuple[int, ...], Q: QuantizedTensor, turned: int | None) -> Later:
    """A matrix in a GGUF format. Blocks lie along rows, so rows can change places without being quantized again."""
    if Q.fmt.name not in FORMATS:
        raise QuantlabError(
            f"{name} is in {Q.fmt.name}, which GGUF has no type for; take q4_0, q4_k or another of its own"
        )
    if Q.shape != shape:
        raise QuantlabError(f"{name} has shape {list(shape)}, its quantized weights {list(Q.shape)}; take its own")

    def read() -> Tensor:
        rows = Q.parts["blocks"].reshape(shape[0], -1)
        return rows if turned is None else interleave_pairs(rows, turned)

    return Later(Q.fmt.name, shape, read)
