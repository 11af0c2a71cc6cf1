"""Write a Hugging Face Llama checkpoint as one GGUF file, which llama.cpp maps into memory and runs.

    header | metadata: key -> value | tensors: name, shape, type, offset | padding | data

Metadata holds the shape of the model, its tokenizer (quantlab.checkpoints.gguf_tokenizer) and its chat template.
Dimensions are listed fastest first: a weight [n, k] is written as (k, n), its bytes stay as they are. Norms and other
vectors are always float32. Tied embeddings are written once; llama.cpp uses them for the output too. Matrices that
were quantized come as the blocks of their GGUF format, byte for byte.

Reference: llama.cpp's convert_hf_to_gguf.py (release of llama-cpp-python 0.3.36), which writes the same bytes for every
tensor and the same metadata but for the way it spells general.name; gguf 0.19, `GGUFWriter`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType, size_label
from safetensors import safe_open
from torch import Tensor

from quantlab.atomic import new_file, require_space
from quantlab.checkpoints import gguf_llama as llama
from quantlab.checkpoints.gguf_tokenizer import read_tokenizer
from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError, unknown
from quantlab.models.folder import examine, read_json
from quantlab.models.weights_file import Entry, read_header


@dataclass(frozen=True)
class _Dtype:
    """How matrices are stored: the torch type, GGUF's number for it, and for a file made of it."""

    torch: torch.dtype
    ggml: GGMLQuantizationType
    file: LlamaFileType


DTYPES = {
    "bf16": _Dtype(torch.bfloat16, GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "f16": _Dtype(torch.float16, GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "f32": _Dtype(torch.float32, GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
}
_VECTOR = DTYPES["f32"]
_SUGGESTED = {"temperature": "sampling_temp", "top_p": "sampling_top_p", "top_k": "sampling_top_k"}


# what a file is called that is mostly of a type, where that is not MOSTLY_ and the type's name
_FILES = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file: name, shape, how it is stored, and a way to read its bytes when its turn comes."""

    name: str
    shape: tuple[int, ...]
    ggml: GGMLQuantizationType
    nbytes: int
    read: Callable[[], Tensor]

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


def write_gguf(
    folder: Path, out: Path, dtype: str = "bf16", quantized: Mapping[str, QuantizedTensor] | None = None
) -> Path:
    """Convert a Llama checkpoint (config.json, safetensors, tokenizer.json) into `out`, whole or not at all.

    dtype: `bf16`, `f16` or `f32`, for the matrices. quantized: name of a layer in the model, such as
    `model.layers.0.mlp.up_proj`, -> its weights in a GGUF format, stored instead. Tensors pass through memory one at a
    time. Raises QuantlabError for another architecture, missing or surplus tensors, wrong shapes, numbers that float16
    cannot hold, and a tokenizer that GGUF cannot express.
    """
    if dtype not in DTYPES:
        raise unknown("GGUF data type", dtype, DTYPES)
    config = examine(folder).config
    llama.check_config(config, folder / "config.json")
    tensors = _tensors(folder, config, DTYPES[dtype], quantized or {})
    require_space(out.parent, sum(tensor.nbytes for tensor in tensors) + 2**20, f"the GGUF file {out.name}")
    with new_file(out) as temporary:
        writer = GGUFWriter(temporary, "llama")
        try:
            _metadata(writer, folder, config, _file_type(tensors, DTYPES[dtype]))
            writer.add_size_label(size_label(sum(tensor.weights for tensor in tensors), 0, 0, 0))
            for tensor in tensors:
                unused = np.dtype(np.float32)  # raw_dtype says it
                writer.add_tensor_info(tensor.name, tensor.shape, unused, tensor.nbytes, raw_dtype=tensor.ggml)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                writer.write_tensor_data(tensor.read().contiguous().view(torch.uint8).numpy())
        finally:
            writer.close()
    return out


def _file_type(tensors: list[_Tensor], stored: _Dtype) -> LlamaFileType:
    """The label of the whole file: the quantized type that takes most bytes, or the matrices' data type."""
    total: dict[GGMLQuantizationType, int] = {}
    for tensor in tensors:
        total[tensor.ggml] = total.get(tensor.ggml, 0) + tensor.nbytes
    for plain in {d.ggml for d in DTYPES.values()}:
        total.pop(plain, None)
    if not total:
        return stored.file
    most = max(total, key=lambda kind: total[kind]).name
    return LlamaFileType["MOSTLY_" + _FILES.get(most, most)]


def _metadata(writer: GGUFWriter, folder: Path, config: dict[str, Any], file: LlamaFileType) -> None:
    """The shape of the model, its rotary base, the suggested sampling, its tokenizer."""
    writer.add_type("model")
    writer.add_name(folder.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(llama.kv_heads(config))
    writer.add_rope_freq_base(llama.rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(llama.head_dim(config))
    writer.add_value_length(llama.head_dim(config))
    writer.add_rope_dimension_count(llama.head_dim(config))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(file)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    beside = folder / "generation_config.json"
    suggested = read_json(beside) if beside.is_file() else {}
    for key, method in _SUGGESTED.items():  # llama.cpp's server takes them as its defaults
        if suggested.get(key) is not None:
            getattr(writer, f"add_{method}")(suggested[key])
    read_tokenizer(folder, config["vocab_size"]).write(writer)


def _tensors(
    folder: Path, config: dict[str, Any], stored: _Dtype, quantized: Mapping[str, QuantizedTensor]
) -> list[_Tensor]:
    """Every tensor of the file in the order of the model; the checkpoint must hold exactly these."""
    shapes = llama.expected_shapes(config)
    found: dict[str, tuple[Path, Entry]] = {}
    for shard in examine(folder).shards:
        found |= {name: (shard, entry) for name, entry in read_header(shard).items()}
    present = {name for name in found if not name.endswith("rotary_emb.inv_freq")}  # old checkpoints carry a buffer
    if config.get("tie_word_embeddings"):
        present.discard("lm_head.weight")
    for problem, names in (("lacks", set(shapes) - present), ("has unknown", present - set(shapes))):
        if names:
            raise QuantlabError(f"{folder} {problem} tensors ({min(names)}, {len(names)} in all); it is no whole Llama")
    for name, shape in shapes.items():
        shard, entry = found[name]
        if entry.shape != shape:
            raise QuantlabError(
                f"{name} in {shard} has shape {list(entry.shape)} and config.json says {list(shape)}; "
                "they do not belong together"
            )
    matrices = {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) > 1}
    for layer in quantized:
        if layer not in matrices:
            raise unknown("matrix of the model", layer, matrices)
    tensors = []
    for name, shape in shapes.items():
        turned = llama.turned_heads(name, config)
        Q = quantized.get(name.removesuffix(".weight"))
        if Q is not None and len(shape) > 1:
            tensors.append(_blocks(name, shape, Q, turned))
        else:
            dtype = stored if len(shape) > 1 else _VECTOR
            tensors.append(_plain(name, shape, found[name][0], dtype, turned))
    if (factors := llama.rope_factors(config)) is not None:
        name = "rope_freqs.weight"
        tensors.insert(0, _Tensor(name, tuple(factors.shape), _VECTOR.ggml, factors.nbytes, lambda: factors))
    return tensors


def _plain(name: str, shape: tuple[int, ...], shard: Path, dtype: _Dtype, turned: int | None) -> _Tensor:
    """A tensor of the checkpoint in 16 or 32 bits."""

    def read() -> Tensor:
        with safe_open(shard, framework="pt") as tensors:
            values: Tensor = tensors.get_tensor(name)
        converted = values.to(dtype.torch)
        if dtype.torch is torch.float16 and torch.isinf(converted).any():
            top = values.abs().max().item()
            raise QuantlabError(f"{gguf} reaches {top:g}, beyond float16's 65504; write the file as bf16")
        return converted if turned is None else llama.interleave_pairs(converted, turned)

    gguf = llama.gguf_name(name)
    return _Tensor(gguf, shape, dtype.ggml, math.prod(shape) * dtype.torch.itemsize, read)


def _blocks(name: str, shape: tuple[int, ...], Q: QuantizedTensor, turned: int | None) -> _Tensor:
    """A matrix in a GGUF format. Blocks lie along rows, so rows can change places without being quantized again."""
    if Q.fmt.name.upper() not in GGMLQuantizationType.__members__:
        raise QuantlabError(
            f"{name} is in {Q.fmt.name}, which GGUF has no type for; take q4_0, q4_k or another of its own"
        )
    if Q.shape != shape:
        raise QuantlabError(f"{name} has shape {list(shape)}, its quantized weights {list(Q.shape)}; take its own")

    def read() -> Tensor:
        rows = Q.parts["blocks"].reshape(shape[0], -1)
        return rows if turned is None else llama.interleave_pairs(rows, turned)

    return _Tensor(llama.gguf_name(name), shape, GGMLQuantizationType[Q.fmt.name.upper()], Q.nbytes, read)
