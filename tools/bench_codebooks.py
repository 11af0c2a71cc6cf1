"""NF4, FP4, FP8, MXFP4 and NVFP4 of one layer against the libraries that store them, in one process, torch's threads.

from bench_codebooks import ROWS      # for tools/bench.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from versus import Versus

from quantlab.formats.catalog import get, quantize_tensor

SIDE = 4096
BITSANDBYTES = "bitsandbytes 0.50.2, quantize_4bit on the CPU"
COMPRESSED = "compressed-tensors 0.19.0, {} on the CPU"


@cache
def layer(dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of a layer [4096, 4096], bell-shaped as a model's are."""
    return torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(dtype) * 0.02


def seconds(work: Callable[[], object]) -> float:
    """How long it takes once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ours(name: str) -> float:
    """`quantize_tensor`, its checks included."""
    return seconds(lambda: quantize_tensor(layer(), name))


def bitsandbytes(name: str) -> float:
    """The library's quantize_4bit with the same settings."""
    from bitsandbytes.functional import quantize_4bit

    kind, nested = name.removesuffix("_dq"), name.endswith("_dq")
    return seconds(lambda: quantize_4bit(layer(), quant_type=kind, compress_statistics=nested))


def ours_decoding(name: str) -> float:
    """`dequantize` of what was quantized before."""
    return seconds(_quantized(name).dequantize)


@cache
def _quantized(name: str):  # type: ignore[no-untyped-def]
    return get(name).quantize(layer())


@cache
def _state(name: str):  # type: ignore[no-untyped-def]
    from bitsandbytes.functional import quantize_4bit

    return quantize_4bit(layer(), quant_type=name)


def bitsandbytes_decoding(name: str) -> float:
    """The library's dequantize_4bit, C++."""
    from bitsandbytes.functional import dequantize_4bit

    codes, state = _state(name)
    return seconds(lambda: dequantize_4bit(codes, state))


def compressed_tensors(preset: str, compression: str) -> float:
    """Scales by llm-compressor's observer, codes and packing by the compressor; the layer is set up beforehand."""
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
    from llmcompressor.modifiers.quantization.calibration import initialize_observer, observe, update_qparams

    module = torch.nn.Linear(SIDE, SIDE, bias=False, device="meta").to_empty(device="cpu")
    module.weight.data = layer()
    scheme = preset_name_to_scheme(preset, ["Linear"])
    initialize_module_for_quantization(module, scheme)
    initialize_observer(module, "weight")
    compressor = BaseCompressor.get_value_from_registry(compression)

    def work() -> None:
        observe(module, "weight")
        update_qparams(module, "weight")
        state = {name: value.data for name, value in module.named_parameters() if name.startswith("weight")}
        compressor.compress(state, scheme)

    return seconds(work)


def _library(preset: str, compression: str) -> Callable[[], float]:
    return partial(compressed_tensors, preset, compression)


_QUANTIZE = "{} of a 4096 x 4096 layer"
ROWS: tuple[Versus, ...] = (
    Versus(_QUANTIZE.format("NF4"), BITSANDBYTES, 1.0, partial(ours, "nf4"), partial(bitsandbytes, "nf4")),
    Versus(_QUANTIZE.format("FP4"), BITSANDBYTES, 1.0, partial(ours, "fp4"), partial(bitsandbytes, "fp4")),
    Versus(
        _QUANTIZE.format("NF4, double quantization,"),
        BITSANDBYTES,
        1.0,
        partial(ours, "nf4_dq"),
        partial(bitsandbytes, "nf4_dq"),
    ),
    Versus(
        _QUANTIZE.format("FP8 E4M3"),
        COMPRESSED.format("float-quantized"),
        0.5,  # theirs is torch's own cast in C++; there is no target
        partial(ours, "fp8_e4m3"),
        _library("FP8", "float-quantized"),
    ),
    Versus(
        _QUANTIZE.format("MXFP4"),
        COMPRESSED.format("mxfp4-pack-quantized"),
        1.0,
        partial(ours, "mxfp4"),
        _library("MXFP4A16", "mxfp4-pack-quantized"),
    ),
    Versus(
        _QUANTIZE.format("NVFP4"),
        COMPRESSED.format("nvfp4-pack-quantized"),
        1.0,
        partial(ours, "nvfp4"),
        _library("NVFP4A16", "nvfp4-pack-quantized"),
    ),
)
