"""llm-compressor and compressed-tensors beside a float format of ours: the very objects that quantize a checkpoint.

A Linear layer is given a preset scheme, its weights are observed, its parameters stored, and the module compressed,
as `llmcompressor.oneshot` does for each layer of a model; then it is decompressed.
"""

from __future__ import annotations

import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
from llmcompressor.modifiers.quantization.calibration import initialize_observer, observe, update_qparams
from torch import Tensor

from quantlab.core import Format

SCHEMES = {
    "fp8_e4m3": ("FP8", "float-quantized"),
    "fp8_e4m3_channel": ("FP8_DYNAMIC", "float-quantized"),
    "fp8_e4m3_block128": ("FP8_BLOCK", "float-quantized"),
    "mxfp4": ("MXFP4A16", "mxfp4-pack-quantized"),
    "nvfp4": ("NVFP4A16", "nvfp4-pack-quantized"),
}


def compressed(name: str, W: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """(tensors of the checkpoint, dequantized weights) that the library makes of W."""
    preset, compression = SCHEMES[name]
    layer = torch.nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=W.dtype)
    layer.weight.data = W.clone()
    scheme = preset_name_to_scheme(preset, ["Linear"])
    initialize_module_for_quantization(layer, scheme)
    initialize_observer(layer, "weight")
    observe(layer, "weight")
    update_qparams(layer, "weight")
    compressor = BaseCompressor.get_value_from_registry(compression)
    kept = ("weight", "weight_scale", "weight_zero_point", "weight_global_scale")
    state = {key: value.data for key, value in layer.named_parameters() if key in kept}
    stored = compressor.compress(state, scheme)
    return stored, compressor.decompress(stored, scheme)["weight"]


def difference(fmt: Format, W: Tensor) -> str | None:
    """What of W in `fmt` is not what the library makes of it; None when every byte and every value agrees."""
    stored, W_hat = compressed(fmt.name, W)
    Q = fmt.quantize(W)
    if Q.parts.keys() != stored.keys():
        return f"names: {sorted(Q.parts)} and {sorted(stored)}"
    for name, part in Q.parts.items():
        theirs = stored[name]
        if name == "weight_scale" and part.dtype == torch.float32:  # a float8 scale stays what it is
            theirs = theirs.float()
        if part.dtype != theirs.dtype or part.shape != theirs.shape:
            return f"{name} is {part.dtype} {list(part.shape)}, not {theirs.dtype} {list(theirs.shape)}"
        ours, theirs = (t.contiguous().view(torch.uint8) for t in (part, theirs))
        if not torch.equal(ours, theirs):
            return f"{int((ours != theirs).sum())} bytes of {name}"
    if not torch.equal(Q.dequantize().to(W_hat.dtype), W_hat):
        return "dequantized weights"
    return None
