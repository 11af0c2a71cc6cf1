"""llama.cpp's mixtures by quantlab's own quantizers: the file that `llama-quantize` makes, byte for byte.

    a GGUF file in 16 or 32 bits
      -> each matrix: its place in the model -> its type in the mixture (quantlab.plan.mixtures)
                      -> quantized, with its row of the importance matrix if there is one
      -> the same metadata, now with the file's type; tensors in llama.cpp's order

Only matrices are quantized: norms and biases are small, and stay as they are.

Reference: llama.cpp, src/llama-quant.cpp (`llama_model_quantize_impl`), release of llama-cpp-python 0.3.36. The whole
file is equal, head and all (tests/reference/test_gguf_mixtures.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from gguf import GGML_QUANT_VERSION, LlamaFileType
from torch import Tensor

from quantlab.checkpoints.gguf_families import FAMILIES, LINEAR
from quantlab.checkpoints.gguf_imatrix import ImportanceMatrix
from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError, unknown
from quantlab.formats.gguf_file import FORMATS, PLAIN, GgufFile, Later, open_gguf, save_gguf
from quantlab.formats.gguf_head import ALIGNMENT, TensorInfo
from quantlab.formats.gguf_values import Kind, Value
from quantlab.plan.mixtures import MIXTURES, Place, type_of

Progress = Callable[[str, float], None]  # the tensor that is quantized now, and the share of all weights that is done
_Make = Callable[[], Tensor | QuantizedTensor]

_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_ROLES = {ours: theirs.split(".")[-1] for theirs, ours in LINEAR.items()}
_OUTER = {"token_embd.weight": "embedding", "output.weight": "lm_head"}
_FLOATS = ("f32", "f16", "bf16")
_KV_HEADS = "attention.head_count_kv"  # as many as query heads unless stated


def quantize_mixture(
    source: Path,
    target: Path,
    ftype: str,
    imatrix: ImportanceMatrix | None = None,
    progress: Progress = lambda name, share: None,
) -> Path:
    """Quantize a GGUF file in 16 or 32 bits into `target`, whole or not at all; ftype: one of MIXTURES.

    Tensors pass through memory one at a time. Raises QuantlabError for a model of another family, a file that is
    quantized already, weights that cannot be stored, and an importance matrix that is missing or another model's.
    """
    file = open_gguf(source)
    types = tensor_types(file, ftype, imatrix)
    for info in file.tensors.values():
        if info.type not in _FLOATS:
            raise QuantlabError(f"{source} holds {info.name} as {info.type}; start from a file in 16 or 32 bits")
    weights, done = sum(info.nbytes for info in file.tensors.values()), 0
    tensors: dict[str, Later] = {}
    for name in sorted(types, key=_order):
        make = partial(_make, file, name, types[name], None if imatrix is None else imatrix.importance(name))
        tensors[name] = Later(types[name], file.tensors[name].shape, _told(make, name, done / weights, progress))
        done += file.tensors[name].nbytes
    return save_gguf(target, _metadata(file, ftype), tensors)


def tensor_types(file: GgufFile, ftype: str, imatrix: ImportanceMatrix | None = None) -> dict[str, str]:
    """The type that each tensor of a file gets in a mixture, by name; raises QuantlabError where there is none."""
    if ftype not in MIXTURES:
        raise unknown("GGUF mixture", ftype, MIXTURES)
    mixture = MIXTURES[ftype]
    if imatrix is not None:
        imatrix.check(file)
    elif mixture.needs_importance:
        raise QuantlabError(f"{ftype} is made with an importance matrix only; give one, or take q2_k")
    said = _said(file)
    return {
        name: info.type if (place := _place(info, file, said)) is None else type_of(place, mixture, imatrix is not None)
        for name, info in file.tensors.items()
    }


def _said(file: GgufFile) -> dict[str, int]:
    """Blocks, query heads and key heads, by the file's metadata."""
    metadata = file.metadata
    family = metadata.get("general.architecture")
    known = sorted({each.architecture for each in FAMILIES})
    if family not in known:
        raise QuantlabError(f"{file.path} is of the family {family!r}; mixtures are known here for {', '.join(known)}")
    said: dict[str, int] = {}
    for name, key in (("layers", "block_count"), ("heads", "attention.head_count"), ("kv_heads", _KV_HEADS)):
        count = metadata.get(f"{family}.{key}", said.get("heads") if key == _KV_HEADS else None)
        if not isinstance(count, int) or count < 1:
            raise QuantlabError(f"{file.path} does not say {family}.{key}; convert the model again")
        said[name] = count
    return said


def _place(info: TensorInfo, file: GgufFile, said: Mapping[str, int]) -> Place | None:
    """Where a matrix stands in the model; None for what is not quantized: vectors, norms, biases."""
    match = _BLOCK.fullmatch(info.name)
    role = _ROLES.get(match[2]) if match else _OUTER.get(info.name)
    if role is None or len(info.shape) < 2:
        return None
    layer = int(match[1]) if match else 0
    tied = "output.weight" not in file.tensors
    return Place(role, info.shape[-1], layer, said["layers"], said["heads"] // said["kv_heads"], tied)


def _make(file: GgufFile, name: str, kind: str, importance: Tensor | None) -> Tensor | QuantizedTensor:
    W = file.tensor(name)
    assert isinstance(W, Tensor), "only files in 16 or 32 bits come here"
    if kind in PLAIN:
        converted = W.to(PLAIN[kind])
        if not torch.isfinite(converted).all():
            raise QuantlabError(f"{name} holds numbers that {kind} cannot; its rows fit no block, so take bf16")
        return converted
    fmt = FORMATS[kind]
    try:
        return fmt.quantize(W.float(), importance if fmt.uses_importance else None)
    except ValueError as error:
        raise QuantlabError(f"{name}: {error}") from error


def _told(make: _Make, name: str, share: float, progress: Progress) -> _Make:
    def tell_and_make() -> Tensor | QuantizedTensor:
        progress(name, share)
        return make()

    return tell_and_make


def _metadata(file: GgufFile, ftype: str) -> dict[str, Value]:
    """The source's metadata; llama.cpp moves the two keys that it sets to the end."""
    ours = {
        "general.quantization_version": Value(Kind.UINT32, GGML_QUANT_VERSION),
        "general.file_type": Value(Kind.UINT32, int(LlamaFileType[f"MOSTLY_{ftype.upper()}"])),
    }
    return {key: value for key, value in file.values.items() if key not in (*ours, ALIGNMENT)} | ours


def _order(name: str) -> tuple[int, bytes]:
    """What belongs to no block first, then block by block; each by name."""
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1, name.encode()
