"""compressed-tensors' checkpoints: what llm-compressor writes, and vLLM and transformers load by themselves.

    format                  LAYER.                                              from our formats         vLLM computes
    pack-quantized          weight_packed weight_scale weight_shape             int2 ... int8, packed    W4A16, W8A16
    int-quantized           weight weight_scale                                 int8                     W8A8
    float-quantized         weight weight_scale                                 fp8_e4m3, by tensor,     W8A8, FP8
                                                                                row or square
    nvfp4-pack-quantized    weight_packed weight_scale weight_global_scale      nvfp4                    W4A16
    mxfp4-pack-quantized    weight_packed weight_scale                          mxfp4                    W4A16

    and weight_zero_point where the grid is asymmetric

The settings say how the weights are stored and how inputs are rounded while the model runs. 8-bit weights in whole
bytes are made for 8-bit inputs, so those two formats ask for inputs rounded as they come, token by token (by groups of
128 for squares): `dynamic`, nothing to calibrate. 4-bit floats are written weight-only: inputs in NVFP4 need a scale of
their own from a calibration.

**Scales in the model's type.** Servers hold the scales of pack-quantized weights in the type that the model runs in. A
float16 scale of a bfloat16 model would be rounded on loading, and every weight of its group would move by up to 0.4%;
such a file is refused where it is written. Take `scale_dtype="bfloat16"`, as llm-compressor does.

Source: compressed-tensors 0.19.0, `QuantizationConfig`, `ModelCompressor.update_config`; llm-compressor 0.14.0.1. Left
out: several groups of settings in one model, static scales of inputs, sparsity, transforms, KV cache scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from quantlab.checkpoints.kind import FLOATS, Found, Kind, NotReadHereError, Part, Scope, Settings, named
from quantlab.core import Format, Parts, QuantizedTensor
from quantlab.errors import QuantlabError
from quantlab.formats import fp8, mx, pack_quantized
from quantlab.formats.catalog import get
from quantlab.formats.int_affine import IntAffine

VERSION = "0.19.0"
_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}  # as safetensors spells them

_ARGUMENTS: dict[str, Any] = {  # QuantizationArgs, as the library writes all of them
    "num_bits": 8, "type": "int", "symmetric": True, "group_size": None, "strategy": "channel",
    "block_structure": None, "dynamic": False, "actorder": None, "scale_dtype": None, "zp_dtype": None,
    "observer": "memoryless_minmax", "observer_kwargs": {},
}  # fmt: skip
_FP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
_NVFP4 = {**_FP4, "scale_dtype": "torch.float8_e4m3fn"}
_MXFP4 = {**_FP4, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
_FP8: dict[str, dict[str, Any]] = {
    "tensor": {"type": "float", "strategy": "tensor"},
    "channel": {"type": "float"},
    "block": {"type": "float", "strategy": "block", "block_structure": [fp8.SIDE, fp8.SIDE]},
}
_SCALED_BY = {"tensor": "fp8_e4m3", "channel": "fp8_e4m3_channel", "block": "fp8_e4m3_block128"}


def _arguments(**changes: Any) -> dict[str, Any]:
    return {**_ARGUMENTS, **changes}


def _inputs(strategy: str = "token", **changes: Any) -> dict[str, Any]:
    """How inputs are rounded while the model runs: a scale for each token, found as it comes."""
    return _arguments(dynamic=True, observer=None, strategy=strategy, **changes)


def _scheme(fmt: Format) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Name of the compression, settings of the weights and of the inputs."""
    grid, packing = fmt.grid, fmt.packing
    if isinstance(packing, mx.LowNibbleFirst):
        name = "nvfp4" if packing.two_level else "mxfp4"
        return f"{name}-pack-quantized", _arguments(**(_NVFP4 if packing.two_level else _MXFP4)), None
    if isinstance(grid, fp8.ScaledFloats):
        inputs = _inputs(type="float")
        if grid.granularity == "block":
            inputs = _inputs("group", type="float", group_size=fp8.SIDE)
        return "float-quantized", _arguments(**_FP8[grid.granularity]), inputs
    assert isinstance(grid, IntAffine)
    strategy = "tensor" if grid.per_tensor else "group" if grid.group else "channel"
    weights = _arguments(
        num_bits=grid.bits, symmetric=grid.symmetric, strategy=strategy, group_size=grid.group,
        zp_dtype=None if grid.symmetric else "torch.int8",
    )  # fmt: skip
    if isinstance(packing, pack_quantized.PackQuantized):
        return "pack-quantized", weights, None
    if not grid.symmetric:
        raise QuantlabError("no server loads asymmetric 8-bit weights with 8-bit inputs; quantize with symmetric=True")
    return "int-quantized", weights, _inputs()


class CompressedTensors(Kind):
    """Six ways to store weights behind one quant_method."""

    name = "compressed-tensors"
    loaded_by = "vLLM; transformers with compressed-tensors"
    packings = (pack_quantized.PackQuantized, pack_quantized.IntQuantized, fp8.FloatBytes, mx.LowNibbleFirst)
    parts = ("weight_packed", "weight", "weight_scale", "weight_global_scale", "weight_zero_point", "weight_shape")
    aside = ("input_global_scale", "input_scale", "input_zero_point", "output_scale", "output_zero_point")

    def holds(self, fmt: Format) -> bool:
        """All of them but FP8's E5M2, which the library does not know."""
        packing = fmt.packing
        known = not isinstance(packing, fp8.FloatBytes) or packing.stored == torch.float8_e4m3fn
        return known and super().holds(fmt)

    def settings(self, fmt: Format, scope: Scope) -> dict[str, Any]:
        """As llm-compressor writes them."""
        compression, weights, inputs = _scheme(fmt)
        group = {
            "targets": ["Linear"], "weights": weights, "input_activations": inputs, "output_activations": None,
            "format": compression,
        }  # fmt: skip
        return {
            "quant_method": self.name,
            "format": compression,
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": list(scope.kept),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
            "sparsity_config": {},
            "transform_config": {},
            "version": VERSION,
        }

    def store(self, Q: QuantizedTensor, dtype: str) -> Parts:
        """The parts as they are, if a server's type of scales loses nothing of them."""
        scale = Q.parts["weight_scale"]
        if isinstance(Q.fmt.packing, pack_quantized.PackQuantized):
            held = scale.to(getattr(torch, dtype)).to(scale.dtype)
            if not torch.equal(held, scale):
                kept = str(scale.dtype).removeprefix("torch.")
                raise ValueError(
                    f"its scales are {kept}, which a server of this {dtype} model rounds; "
                    f'quantize with scale_dtype="{dtype}"'
                )
        return Q.parts

    def layer(self, settings: Settings, found: Found) -> tuple[Format, tuple[int, int]]:
        """Format from the settings and the type of the scales, shape from the tensors."""
        groups = settings["config_groups"]
        if len(groups) != 1:
            raise NotReadHereError(f"it has {len(groups)} groups of settings, one is read here")
        (group,) = groups.values()
        weights = group["weights"]
        compression = group.get("format") or settings["format"]
        if compression == "naive-quantized":  # the same bytes, for weights alone
            compression = f"{weights['type']}-quantized"
        if compression not in _READERS:
            raise NotReadHereError(f"compression {compression!r} is not read here, only {', '.join(_READERS)}")
        return _READERS[compression](weights, found)

    def expected(self, fmt: Format, shape: tuple[int, int]) -> dict[str, Part]:
        """By the packing."""
        n, k = shape
        grid, packing = fmt.grid, fmt.packing
        if isinstance(grid, mx.PowerOfTwoBlocks | mx.TwoLevelBlocks):
            codes, scales = Part(("U8",), (n, k // 2)), (n, k // grid.group)
            if isinstance(grid, mx.PowerOfTwoBlocks):
                return {"weight_packed": codes, "weight_scale": Part(("U8",), scales)}
            own = {"weight_scale": Part(("F8_E4M3",), scales), "weight_global_scale": Part(("F32",), (1,))}
            return {"weight_packed": codes, **own}
        if isinstance(grid, fp8.ScaledFloats):
            squares = (-(-n // fp8.SIDE), -(-k // fp8.SIDE))
            of = {"tensor": (1,), "channel": (n, 1), "block": squares}[grid.granularity]
            return {"weight": Part(("F8_E4M3",), (n, k)), "weight_scale": Part(FLOATS, of)}
        assert isinstance(grid, IntAffine)
        return _integers(grid, packing, n, k)


def _integers(grid: IntAffine, packing: object, n: int, k: int) -> dict[str, Part]:
    """In the order in which the packing stores them."""
    groups = k // (grid.group or k)
    packed = isinstance(packing, pack_quantized.PackQuantized)
    codes = Part(("I32",), (n, -(-k * grid.bits // 32))) if packed else Part(("I8",), (n, k))
    if grid.per_tensor:
        scale, zero = Part(FLOATS, (1,)), Part(("I8",), (1,))
    else:
        scale = Part(FLOATS, (n, groups), groups=1)
        zero = Part(("I32",), (-(-n * grid.bits // 32), groups), groups=1) if packed else Part(("I8",), (n, 1))
    parts = {"weight_packed" if packed else "weight": codes, "weight_scale": scale}
    if not grid.symmetric:
        parts["weight_zero_point"] = zero
    return {**parts, "weight_shape": Part(("I64", "I32"), (2,))} if packed else parts


def _scale_dtype(found: Found) -> str:
    dtype = found.entry("weight_scale").dtype
    if dtype not in _TYPES:
        raise QuantlabError(
            f"{found.name}.weight_scale is {dtype}, not one of {', '.join(FLOATS)}; get the model again"
        )
    return _TYPES[dtype]


def _bits(weights: Mapping[str, Any], bits: int, found: Found) -> None:
    """Raise where config.json gives the codes another width than their bytes have."""
    if weights["num_bits"] != bits:
        raise QuantlabError(
            f"{found.name} has codes of {bits} bits, config.json says {weights['num_bits']}: one of the two is wrong"
        )


def _read_packed(weights: Mapping[str, Any], found: Found) -> tuple[Format, tuple[int, int]]:
    strategy, group, symmetric = weights["strategy"], weights.get("group_size"), bool(weights["symmetric"])
    if strategy not in ("group", "channel", "tensor") or (strategy == "group" and type(group) is not int):
        raise ValueError(f"strategy {strategy!r} with group_size {group!r}")
    n, k = (int(size) for size in found.small("weight_shape"))
    bits, group = int(weights["num_bits"]), group if strategy == "group" else None
    fmt = pack_quantized.build(
        named(f"int{bits}", group), bits=bits, group=group, symmetric=symmetric, scale_dtype=_scale_dtype(found),
        per_tensor=strategy == "tensor",
    )  # fmt: skip
    return fmt, (n, k)


def _read_integers(weights: Mapping[str, Any], found: Found) -> tuple[Format, tuple[int, int]]:
    _bits(weights, 8, found)
    if weights["strategy"] not in ("tensor", "channel"):
        raise ValueError(f"whole bytes have a scale for each row or for the tensor, not by {weights['strategy']!r}")
    symmetric, per_tensor = bool(weights["symmetric"]), weights["strategy"] == "tensor"
    return get("int8", symmetric=symmetric, scale_dtype=_scale_dtype(found), per_tensor=per_tensor), found.matrix(
        "weight"
    )


def _read_floats(weights: Mapping[str, Any], found: Found) -> tuple[Format, tuple[int, int]]:
    _bits(weights, 8, found)
    name = _SCALED_BY[weights["strategy"]]
    square = weights.get("block_structure")
    if weights["strategy"] == "block" and square not in ([fp8.SIDE, fp8.SIDE], f"{fp8.SIDE}x{fp8.SIDE}"):
        raise NotReadHereError(f"squares of {square} are not read here, only {[fp8.SIDE, fp8.SIDE]}")
    return get(name, scale_dtype=getattr(torch, _scale_dtype(found))), found.matrix("weight")


def _read_nibbles(name: str, weights: Mapping[str, Any], found: Found) -> tuple[Format, tuple[int, int]]:
    _bits(weights, 4, found)
    fmt = get(name)
    assert isinstance(fmt.grid, mx.PowerOfTwoBlocks | mx.TwoLevelBlocks)
    if weights["group_size"] != fmt.grid.group:
        raise ValueError(f"{name} has groups of {fmt.grid.group}, not {weights['group_size']}")
    n, octets = found.matrix("weight_packed")
    return fmt, (n, 2 * octets)


_READERS: dict[str, Callable[[Mapping[str, Any], Found], tuple[Format, tuple[int, int]]]] = {
    "pack-quantized": _read_packed,
    "int-quantized": _read_integers,
    "float-quantized": _read_floats,
    "nvfp4-pack-quantized": partial(_read_nibbles, "nvfp4"),
    "mxfp4-pack-quantized": partial(_read_nibbles, "mxfp4"),
}
