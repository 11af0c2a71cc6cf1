"""What AutoAWQ, compressed-tensors and GPTQModel make of a matrix, and the check that ours is the same to the last bit.

The mutants of tests/properties/test_mutants_int.py must fail these checks.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from golden.gptq_cases import Case, digest, g_idx_of, to_text
from llmcompressor.observers import Observer
from torch import Tensor, nn

from quantlab.core import Format, Packing, Params, QuantizedTensor
from quantlab.formats.int_affine import IntAffine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # AutoAWQ bids farewell when it is imported
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.quantize.quantizer import AwqQuantizer
    from awq.utils.packing_utils import dequantize_gemm


def autoawq(W: Tensor, group: int) -> WQLinear_GEMM:
    """What `AwqQuantizer._apply_quant` does to one layer, on a CPU."""
    linear = nn.Linear(W.shape[1], W.shape[0], bias=False).half()
    settings = SimpleNamespace(group_size=group, zero_point=True, w_bit=4)
    linear.weight.data, scales, zeros = AwqQuantizer.pseudo_quantize_tensor(settings, W.half())
    return WQLinear_GEMM.from_linear(linear, 4, group, scales=scales.t().contiguous(), zeros=zeros.t().contiguous())


def same_as_autoawq(W: Tensor, fmt: Format, group: int) -> None:
    ours, theirs = fmt.quantize(W), autoawq(W, group)
    assert list(ours.parts) == ["qweight", "qzeros", "scales"]
    for name, part in ours.parts.items():
        assert part.dtype == getattr(theirs, name).dtype
        assert torch.equal(part, getattr(theirs, name)), name
    W_hat = dequantize_gemm(theirs.qweight, theirs.qzeros, theirs.scales, 4, group).t()
    assert torch.equal(ours.dequantize().half(), W_hat)


def args_of(bits: int, group: int | None, symmetric: bool, per_tensor: bool = False) -> QuantizationArgs:
    strategy = "tensor" if per_tensor else "group" if group else "channel"
    return QuantizationArgs(num_bits=bits, type="int", strategy=strategy, group_size=group, symmetric=symmetric)


def compressed_tensors(
    W: Tensor, args: QuantizationArgs, how: str = "pack-quantized"
) -> tuple[dict[str, Tensor], Tensor]:
    """What llm-compressor's observer and compressed-tensors' compressor store for W, and what it decompresses to."""
    observer = Observer.load_from_registry("memoryless_minmax", base_name="weight", args=args)
    observer(W)
    found = observer.get_qparams()
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(how)
    layer = {"weight": W, "weight_scale": found["scale"], "weight_zero_point": found["zero_point"]}
    stored = compressor.compress(layer, scheme)
    return stored, compressor.decompress(stored, scheme)["weight"]


def same_as_compressed_tensors(
    W: Tensor, fmt: Format, args: QuantizationArgs, how: str = "pack-quantized"
) -> QuantizedTensor:
    ours = fmt.quantize(W)
    theirs, W_hat = compressed_tensors(W, args, how)
    assert ours.parts.keys() == theirs.keys()
    for name, part in theirs.items():
        assert ours.parts[name].dtype == part.dtype, name
        assert torch.equal(ours.parts[name], part), name
    assert ours.nbytes == sum(part.numel() * part.element_size() for part in theirs.values())
    assert torch.equal(ours.dequantize().to(W_hat.dtype), W_hat)  # they multiply in the scales' type: one rounding
    return ours


@cache
def golden() -> dict[str, Any]:
    """What GPTQModel made of the layers of gptq_cases.py: hashes, and the bytes of a few."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "gptq_pack.json").read_text())
    return found


def fitted(grid: IntAffine, W: Tensor, g_idx: Tensor) -> Params:
    """Parameters for groups whose columns lie where g_idx says."""
    p = grid.fit(W[:, g_idx.argsort(stable=True)])
    return p if torch.equal(g_idx, g_idx.sort().values) else {**p, "g_idx": g_idx}


def same_as_gptqmodel(case: Case, name: str, W: Tensor, grid: IntAffine, packing: Packing) -> None:
    theirs = golden()["cases"][case.name][name]
    p = fitted(grid, W, g_idx_of(case))
    q = grid.encode(W, p)
    assert digest(p["scale"]) == theirs["scale"]
    assert digest(p["zero"]) == theirs["zero"]
    assert digest(grid.decode(q, p) + 0.0) == theirs["W_hat"]
    parts = packing.pack(q, p)
    assert list(parts) == ["qweight", "qzeros", "scales", "g_idx"]
    for part, value in parts.items():
        assert theirs[part] in (digest(value), to_text(value)), part
    q2, p2 = packing.unpack(parts, (len(W), W.shape[1]))
    assert torch.equal(q2, q)
    assert torch.equal(p2["zero"], p["zero"])
    assert ("g_idx" in p2) == case.desc_act
