"""Integer formats of one layer against the libraries that store them: from weights to what a checkpoint holds.

from bench_integers import ROWS      # for tools/bench.py
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from versus import Versus

from quantlab.formats.catalog import quantize_tensor

SIDE, GROUP = 4096, 128


@cache
def layer() -> Tensor:
    """Weights of a layer [4096, 4096], bell-shaped as a model's are."""
    return torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.02


def seconds(work: Callable[[], object]) -> float:
    """How long it takes once."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def autoawq() -> object:
    """AutoAWQ's rounding and its GEMM packing, as `AwqQuantizer._apply_quant` calls them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AutoAWQ bids farewell when it is imported
        from awq.modules.linear.gemm import WQLinear_GEMM
        from awq.quantize.quantizer import AwqQuantizer
    linear = nn.Linear(SIDE, SIDE, bias=False).half()
    settings = SimpleNamespace(group_size=GROUP, zero_point=True, w_bit=4)
    linear.weight.data, scales, zeros = AwqQuantizer.pseudo_quantize_tensor(settings, layer().half())
    return WQLinear_GEMM.from_linear(linear, 4, GROUP, scales=scales.t().contiguous(), zeros=zeros.t().contiguous())


def compressed_tensors() -> object:
    """Scales, codes and words of compressed-tensors."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=GROUP, symmetric=True)
    groups = layer().reshape(SIDE, -1, GROUP)
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized")
    return compressor.compress({"weight": layer(), "weight_scale": scale, "weight_zero_point": zero}, scheme)


def row(fmt: str, against: str, reach: float, theirs: Callable[[], object]) -> Versus:
    """One format against its library."""
    return Versus(
        f"{fmt} of a 4096 x 4096 layer",
        against,
        reach,
        lambda: seconds(lambda: quantize_tensor(layer(), fmt)),
        lambda: seconds(theirs),
        repeats=1,
    )


ROWS: tuple[Versus, ...] = (
    row("awq_int4_g128", "AutoAWQ 0.2.9, pseudo_quantize_tensor and from_linear", 1, autoawq),
    row("int4_g128", "compressed-tensors 0.19.0, calculate_qparams and compress", 1, compressed_tensors),
)
