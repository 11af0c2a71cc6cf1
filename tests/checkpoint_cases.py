"""Layers of the bundled model in every format that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from quantlab.checkpoints.fused import fused_absmax
from quantlab.core import Format, QuantizedTensor
from quantlab.formats import awq_pack, gptq_pack, pack_quantized
from quantlab.formats.catalog import get

Weights = dict[str, Tensor]
Layers = dict[str, QuantizedTensor]


def weights_of(folder: Path, block: str = "") -> Weights:
    """The projections of a Llama folder with one file, of all blocks or of `layers.0`."""
    tensors = load_file(folder / "model.safetensors")
    return {n.removesuffix(".weight"): W for n, W in tensors.items() if n.endswith("proj.weight") and block in n}


def quantize(weights: Weights, fmt: Format | str, **options: object) -> Layers:
    """Every layer in one format; NVFP4 with the global scale that fused layers share."""
    if fmt == "nvfp4":
        top = fused_absmax(weights)
        return {name: get("nvfp4", absmax=top[name]).quantize(W) for name, W in weights.items()}
    fmt = get(fmt, **options) if isinstance(fmt, str) else fmt
    return {name: fmt.quantize(W) for name, W in weights.items()}


def different(ours: Path, theirs: Path) -> list[str]:
    """Tensors of two folders that are not the same in name, type, shape and every byte."""
    a, b = (load_file(folder / "model.safetensors") for folder in (ours, theirs))
    return sorted(name for name in a.keys() | b.keys() if name not in a or name not in b or not _same(a[name], b[name]))


def _same(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (a, b)))


def act_order(weights: Weights) -> Layers:
    """GPTQ with desc_act: the columns of a group are not neighbours."""
    fmt = gptq_pack.build("gptq_int4_g128", bits=4, group=128, desc_act=True)
    made = {}
    for name, W in weights.items():
        order = torch.randperm(W.shape[1], generator=torch.Generator().manual_seed(len(name)))
        g_idx = torch.arange(W.shape[1])[order.argsort()] // 128
        p = {**fmt.grid.fit(W[:, order]), "g_idx": g_idx}
        made[name] = fmt.store(fmt.grid.encode(W.float(), p), p)
    return made


def _of(fmt: Format | str, **options: object) -> Callable[[Weights], Layers]:
    return partial(quantize, fmt=fmt, **options)


def _packed(bits: int, group: int | None, **options: object) -> Callable[[Weights], Layers]:
    name = f"int{bits}_g{group}" if group else f"int{bits}"
    return _of(pack_quantized.build(name, bits=bits, group=group, scale_dtype="bfloat16", **options))  # type: ignore[arg-type]


CASES: dict[str, tuple[str, Callable[[Weights], Layers]]] = {  # name -> (kind, what quantizes the layers)
    **{f"awq_int4_g{group}": ("awq", _of(f"awq_int4_g{group}")) for group in (32, 64, 128)},
    "awq, whole rows": ("awq", _of(awq_pack.build("awq_int4", group=None))),
    **{name: ("gptq", _of(name)) for name in ("gptq_int4_g128", "gptq_int4_g32", "gptq_int3_g64")},
    "gptq, 2 bits": ("gptq", _of(gptq_pack.build("gptq_int2_g64", bits=2, group=64))),
    "gptq, 8 bits, whole rows": ("gptq", _of(gptq_pack.build("gptq_int8", bits=8, group=None))),
    "gptq_v2": ("gptq", _of("gptq_int4_g128", version=2)),
    "gptq_v2, asymmetric": ("gptq", _of("gptq_int4_g64", version=2, symmetric=False)),
    "gptq, act order": ("gptq", act_order),
    **{f"int{bits}, packed": ("compressed-tensors", _packed(bits, 128)) for bits in range(2, 9)},
    "int4, whole rows": ("compressed-tensors", _packed(4, None)),
    "int4, asymmetric": ("compressed-tensors", _packed(4, 64, symmetric=False)),
    "int3, asymmetric, whole rows": ("compressed-tensors", _packed(3, None, symmetric=False)),
    "int8, one scale, packed": ("compressed-tensors", _packed(8, None, per_tensor=True)),
    "int8, one scale, asymmetric, packed": ("compressed-tensors", _packed(8, None, per_tensor=True, symmetric=False)),
    "int8": ("compressed-tensors", _of("int8")),
    "int8, bfloat16 scales": ("compressed-tensors", _of("int8", scale_dtype="bfloat16")),
    "int8, one scale": ("compressed-tensors", _of("int8", per_tensor=True)),
    **{name: ("compressed-tensors", _of(name)) for name in ("fp8_e4m3", "fp8_e4m3_channel", "fp8_e4m3_block128")},
    "fp8, bfloat16 scales": ("compressed-tensors", _of("fp8_e4m3_channel", scale_dtype=torch.bfloat16)),
    **{name: ("compressed-tensors", _of(name)) for name in ("mxfp4", "nvfp4")},
    **{name: ("bitsandbytes", _of(name)) for name in ("nf4", "nf4_dq", "fp4", "fp4_dq", "llm_int8")},
    "nf4, blocks of 128": ("bitsandbytes", _of("nf4", block=128)),
    "nf4_dq, blocks of 32": ("bitsandbytes", _of("nf4_dq", block=32)),
}
