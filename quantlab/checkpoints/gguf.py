"""Write a Hugging Face Llama checkpoint as one GGUF file, which llama.cpp maps into memory and runs.

    header | metadata: key -> value | tensors: name, shape, type, offset | padding | data

Metadata holds the shape of the model, its tokenizer (quantlab.checkpoints.gguf_tokenizer) and its chat template.
Dimensions are listed fastest first: a weight [n, k] is written as (k, n), its bytes stay as they are. Norms and other
vectors are always float32. Tied embeddings are written once; llama.cpp uses them for the output too.

Reference: llama.cpp's convert_hf_to_gguf.py (release of llama-cpp-python 0.3.36), which writes the same bytes for every
tensor and the same metadata but for the way it spells general.name; gguf 0.19, `GGUFWriter`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file: its name, its shape, how it is stored, and a way to read it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    stored: _Dtype
    read: Callable[[], Tensor]

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.weights * self.stored.torch.itemsize


def write_gguf(folder: Path, out: Path, dtype: str = "bf16") -> Path:
    """Convert a Llama checkpoint (config.json, safetensors, tokenizer.json) into `out`, whole or not at all.

    dtype: `bf16`, `f16` or `f32`, for the matrices. Tensors pass through memory one at a time. Raises QuantlabError for
    another architecture, missing or surplus tensors, wrong shapes, numbers that float16 cannot hold, and a tokenizer
    that GGUF cannot express.
    """
    if dtype not in DTYPES:
        raise unknown("GGUF data type", dtype, DTYPES)
    config = examine(folder).config
    llama.check_config(config, folder / "config.json")
    tensors = _tensors(folder, config, DTYPES[dtype])
    require_space(out.parent, sum(tensor.nbytes for tensor in tensors) + 2**20, f"the GGUF file {out.name}")
    with new_file(out) as temporary:
        writer = GGUFWriter(temporary, "llama")
        try:
            _metadata(writer, folder, config, DTYPES[dtype])
            writer.add_size_label(size_label(sum(tensor.weights for tensor in tensors), 0, 0, 0))
            for tensor in tensors:
                unused = np.dtype(np.float32)  # raw_dtype says it
                writer.add_tensor_info(tensor.name, tensor.shape, unused, tensor.nbytes, raw_dtype=tensor.stored.ggml)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                writer.write_tensor_data(_bytes(tensor))
        finally:
            writer.close()
    return out


def _bytes(tensor: _Tensor) -> Any:
    """The bytes of one tensor as a numpy array."""
    values = tensor.read()
    converted = values.to(tensor.stored.torch)
    if tensor.stored.torch is torch.float16 and torch.isinf(converted).any():
        top = values.abs().max().item()
        raise QuantlabError(f"{tensor.name} reaches {top:g}, beyond float16's 65504; write the file as bf16")
    return converted.contiguous().view(torch.uint8).numpy()


def _metadata(writer: GGUFWriter, folder: Path, config: dict[str, Any], stored: _Dtype) -> None:
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
    writer.add_file_type(stored.file)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    beside = folder / "generation_config.json"
    suggested = read_json(beside) if beside.is_file() else {}
    for key, method in _SUGGESTED.items():  # llama.cpp's server takes them as its defaults
        if suggested.get(key) is not None:
            getattr(writer, f"add_{method}")(suggested[key])
    read_tokenizer(folder, config["vocab_size"]).write(writer)


def _tensors(folder: Path, config: dict[str, Any], stored: _Dtype) -> list[_Tensor]:
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
    tensors = [_tensor(name, shape, found[name][0], config, stored) for name, shape in shapes.items()]
    if (factors := llama.rope_factors(config)) is not None:
        tensors.insert(0, _Tensor("rope_freqs.weight", tuple(factors.shape), _VECTOR, lambda: factors))
    return tensors


def _tensor(name: str, shape: tuple[int, ...], shard: Path, config: dict[str, Any], stored: _Dtype) -> _Tensor:
    turned = llama.turned_heads(name, config)

    def read() -> Tensor:
        with safe_open(shard, framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        return tensor if turned is None else llama.interleave_pairs(tensor, turned)

    return _Tensor(llama.gguf_name(name), shape, stored if len(shape) > 1 else _VECTOR, read)
