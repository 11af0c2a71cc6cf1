"""FP8: a byte that is a floating-point number itself, and a scale that lifts the weights into its range.

    w_hat = scale * value[q],   scale = max|w| / 448 for E4M3, / 57344 for E5M2

The levels are 8 to an octave (E4M3), so the relative error is the same for large and small weights: an outlier costs
its neighbours nothing until they fall below the smallest normal number, 2^-6 of full scale's 448. That is why one scale
can serve a row, or the whole tensor:

    fp8_e4m3            one scale for the tensor             compressed-tensors' preset FP8
    fp8_e4m3_channel    one for each row                     FP8_DYNAMIC
    fp8_e4m3_block128   one for each 128 x 128 square        FP8_BLOCK, as in DeepSeek-V3 (arXiv 2412.19437)

Which bits a value gets is in minifloat.py, equal to torch's cast. Rounding happens twice where the weights are float16
or bfloat16: w / scale is rounded to the weights' own type first, as llm-compressor does on a model of that type, and
the scale is a number of that type too. `scale_dtype` is only how wide it is *stored*: llm-compressor stores the model's
type, two bytes for a bfloat16 model; the default is float32, which holds the same value.

Source: compressed-tensors 0.19.0 (float-quantized: `calculate_qparams`, `NaiveQuantizationCompressor`) with
llm-compressor 0.14's min-max observer; Micikevicius et al. 2022 (arXiv 2209.05433). A group of zeros has the scale
`finfo.eps` of the weights' type, since zero cannot divide. An exact -0 becomes +0, as the library adds its zero point,
0, to each weight. compressed-tensors knows no E5M2: that one has torch's cast for its reference, and the same rule for
the scale. Left out: scales found by mean squared error, static scales of activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from quantlab.core import Fidelity, Format, Params, Parts, Reference
from quantlab.errors import unknown
from quantlab.formats.minifloat import E4M3, E5M2, MiniFloat
from quantlab.layout import Layout, layout

GRANULARITIES = ("tensor", "channel", "block")
SIDE = 128  # of the squares that "block" scales


@dataclass(frozen=True)
class ScaledFloats:
    """One small floating-point number a weight, and a scale for each `granularity` of the matrix.

    >>> grid = ScaledFloats(E4M3)
    >>> W = torch.tensor([[448.0, 1.0, -0.3]])
    >>> p = grid.fit(W)
    >>> p["scale"], grid.encode(W, p)
    (tensor([[1.]]), tensor([[126,  56, 170]], dtype=torch.uint8))
    >>> grid.decode(grid.encode(W, p), p)[0, 1:]
    tensor([ 1.0000, -0.3125])
    """

    number: MiniFloat
    granularity: str = "tensor"
    scale_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise unknown("granularity", self.granularity, GRANULARITIES)
        if self.scale_dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"scale_dtype must be torch.float32, bfloat16 or float16, got {self.scale_dtype}")

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.number.bits

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """{"scale": float32 [1, 1], [n, 1] or [n/128, k/128]}: the largest weight becomes the largest number."""
        W = own_type(W)
        top = self._largest(W)
        scale = top / self.number.largest  # in the weights' own type
        scale = torch.where(scale == 0, torch.finfo(W.dtype).eps, scale).to(self.scale_dtype).float()
        if not torch.isfinite(scale * self.number.largest).all():
            raise ValueError(f"the weights reach {top.max().item():g}, beyond a {self.scale_dtype} scale; rescale them")
        return {"scale": scale}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest number of each weight, uint8 [n, k]: its bits."""
        x = (W.float() / self._each(p["scale"], W)).to(own_type(W).dtype)
        return self.number.encode(x.clamp(-self.number.largest, self.number.largest) + 0.0)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """scale * value, float32 [n, k]."""
        return self.number.decode(q) * self._each(p["scale"], q)

    def _largest(self, W: Tensor) -> Tensor:
        """max |w| of each part that shares a scale."""
        n, k = W.shape
        if self.granularity != "block":
            return W.abs().amax((0, 1) if self.granularity == "tensor" else 1, keepdim=True)
        rows, columns = -(-n // SIDE), -(-k // SIDE)
        squares = pad(W, (0, -k % SIDE, 0, -n % SIDE)).reshape(rows, SIDE, columns, SIDE)
        return squares.abs().amax((1, 3))

    def _each(self, scale: Tensor, W: Tensor) -> Tensor:
        """The scales in a shape that broadcasts over W [n, k]."""
        if self.granularity != "block":
            return scale
        return scale.repeat_interleave(SIDE, 0)[: W.shape[0]].repeat_interleave(SIDE, 1)[:, : W.shape[1]]


def own_type(W: Tensor) -> Tensor:
    """W in the type that its arithmetic runs in: its own if that is 16 bits wide, else float32."""
    if W.dtype == torch.float64 and W.abs().max() > torch.finfo(torch.float32).max:
        raise ValueError(f"the weights reach {W.abs().max().item():g}, beyond float32; rescale them")
    return W if W.dtype in (torch.float16, torch.bfloat16) else W.float()


@dataclass(frozen=True)
class FloatBytes:
    """Each code is a byte of a tensor whose type torch knows: torch.float8_e4m3fn or torch.float8_e5m2.

    byte i:   S E E E E M M M      (E5M2: S E E E E E M M)
    """

    stored: torch.dtype
    granularity: str = "tensor"
    scale_dtype: torch.dtype = torch.float32

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"weight": float8 [n, k], "weight_scale": [1], [n, 1] or [n/128, k/128]}."""
        scale = p["scale"].to(self.scale_dtype)
        return {"weight": q.view(self.stored), "weight_scale": scale[0] if self.granularity == "tensor" else scale}

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and their scales."""
        scale = parts["weight_scale"].float()
        return parts["weight"].view(torch.uint8).reshape(shape), {"scale": scale.reshape(-1, scale.shape[-1])}


_TORCH = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
_SUFFIX = {"tensor": "", "channel": "_channel", "block": "_block128"}
_REFERENCES = {
    "e4m3": Reference(
        "compressed-tensors", "0.19.0", Fidelity.BIT_EXACT, "float-quantized; bits equal to torch's cast"
    ),
    "e5m2": Reference("torch", "2.13.0", Fidelity.BIT_EXACT, "bits of its cast; the scale by E4M3's rule"),
}


def _layout(number: MiniFloat, granularity: str, scale_dtype: torch.dtype) -> Layout:
    plan = layout(f"fp8_e4m3{_SUFFIX[granularity]}")
    plan = replace(plan, name=f"fp8_{number.name}{_SUFFIX[granularity]}")
    if granularity == "tensor":
        return replace(plan, tensor_bytes=scale_dtype.itemsize)
    if granularity == "channel":
        return replace(plan, row_bytes=scale_dtype.itemsize)
    return replace(plan, tile=(SIDE, scale_dtype.itemsize))


def _build(number: MiniFloat, granularity: str, scale_dtype: torch.dtype) -> Format:
    grid = ScaledFloats(number, granularity, scale_dtype)
    packing = FloatBytes(_TORCH[number.name], granularity, scale_dtype)
    plan = _layout(number, granularity, scale_dtype)
    return Format(plan.name, grid, packing, plan, _REFERENCES[number.name])


BUILDERS: dict[str, Callable[..., Format]] = {
    "fp8_e4m3": lambda *, granularity="tensor", scale_dtype=torch.float32: _build(E4M3, granularity, scale_dtype),
    "fp8_e5m2": lambda *, granularity="tensor", scale_dtype=torch.float32: _build(E5M2, granularity, scale_dtype),
    "fp8_e4m3_channel": lambda *, scale_dtype=torch.float32: _build(E4M3, "channel", scale_dtype),
    "fp8_e4m3_block128": lambda *, scale_dtype=torch.float32: _build(E4M3, "block", scale_dtype),
}
