"""NF4 and FP4 as bitsandbytes stores them: blocks of 64 weights, one float32 absmax each, two codes to a byte.

    w_hat = absmax(block) * levels[q],   q = the level nearest to w / absmax

The levels, and what happens halfway between two, are in codebook.py. Blocks run over the whole tensor, row after row,
so a block may begin in one row and end in the next; the last one may be short. `nf4_dq` and `fp4_dq` quantize the
absmax values in turn (double_quant.py): 4.13 bits a weight instead of 4.5.

Source: bitsandbytes 0.50.2 on the CPU (`quantize_4bit`, `dequantize_4bit`), bit for bit: codes, absmax, nested state,
weights of float32, float16 and bfloat16. Three details of it that change bits:
  - a whole block is multiplied by the rounded 1 / absmax, a short last block is divided by absmax;
  - an absmax below 1e-38 counts as 1e-38, so that a block of zeros does not divide by zero (a short last block stores
    that 1e-38, a whole one stores its true absmax);
  - with double quantization the codes are chosen for the exact absmax, and decoded with the 8-bit one.
Its `dequantize_4bit` returns the type of the weights it was given: ours rounded to that type.

**Beware**: on a CPU with AVX-512, bitsandbytes 0.50.2 dequantizes wrongly where rows divide by 16 but not by the block
(`block=128` with SmolLM2's rows of 576, say): it counts k // block scales for each row, and most weights get another
block's scale. Its bytes are right, and so is what it makes of them as one long row; that is what `decode` equals.

Left out: what a checkpoint repeats for each tensor (the table of 16 levels and the shape: quant_map, quant_state), and
storage types other than uint8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Fidelity, Format, Params, Parts, Reference
from quantlab.formats import double_quant
from quantlab.formats.chunks import CHUNK, look_up
from quantlab.formats.codebook import FP4, FP4_LEVELS, NF4, NF4_LEVELS, Codebook, normal_levels
from quantlab.layout import layout

__all__ = ["BUILDERS", "FP4", "FP4_LEVELS", "NF4", "NF4_LEVELS", "FlatBlocks", "HighNibbleFirst", "normal_levels"]

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # those the library takes
_SMALLEST = 1e-38  # absmax below this is raised to it before dividing


@dataclass(frozen=True)
class FlatBlocks:
    """A codebook and one absmax for each `block` weights of the flattened matrix.

    >>> grid = FlatBlocks(NF4, block=32)
    >>> W = torch.linspace(-2, 2, 32)[None]
    >>> p = grid.fit(W)
    >>> p["absmax"], grid.encode(W, p)[0, [0, 16, 31]]
    (tensor([2.]), tensor([ 0,  7, 15], dtype=torch.uint8))
    """

    codebook: Codebook
    block: int = 64
    double_quant: bool = False

    bits = 4
    scale_dtype = torch.float32

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(map(str, BLOCKS))}, got {self.block}")

    def fit(self, W: Tensor, importance: Tensor | None = None) -> Params:
        """{"absmax": float32 [blocks]}, and the three of `double_quant.compress` where that is asked for."""
        whole, rest = self._blocks(W)
        absmax = torch.empty(len(whole) + (len(rest) > 0))
        for some in _chunks(whole):
            absmax[some] = whole[some].abs().amax(-1).float()
        if len(rest):
            absmax[-1] = rest.abs().amax().float().clamp(min=_SMALLEST)
        if not torch.isfinite(absmax).all():
            raise ValueError(f"the weights reach {W.abs().max().item():g}, beyond a float32 absmax; rescale them")
        return {"absmax": absmax, **(double_quant.compress(absmax) if self.double_quant else {})}

    def encode(self, W: Tensor, p: Params) -> Tensor:
        """The nearest level of each weight, uint8 [n, k]."""
        whole, rest = self._blocks(W)
        q = torch.empty(W.numel(), dtype=torch.uint8)
        inverse = 1 / p["absmax"][: len(whole), None].clamp(min=_SMALLEST)
        for some in _chunks(whole):
            x = (whole[some].float() * inverse[some]).clamp_(-1, 1)
            q[some.start * self.block : some.stop * self.block] = self.codebook.nearest(x).flatten()
        if len(rest):
            q[whole.numel() :] = self.codebook.nearest((rest.float() / p["absmax"][-1]).clamp(-1, 1))
        return q.reshape(W.shape)

    def decode(self, q: Tensor, p: Params) -> Tensor:
        """absmax * level, float32 [n, k]."""
        absmax = double_quant.expand(p) if self.double_quant else p["absmax"]
        whole, rest = self._blocks(look_up(self.codebook.levels, q))
        values = whole.mul_(absmax[: len(whole), None]).flatten()
        return torch.cat([values, rest * absmax[-1]]).reshape(q.shape) if len(rest) else values.reshape(q.shape)

    def _blocks(self, W: Tensor) -> tuple[Tensor, Tensor]:
        """W [n, k] -> whole blocks [m, block] and the weights that are left over [fewer than block]."""
        flat = W.flatten()
        whole = flat[: len(flat) // self.block * self.block]
        return whole.reshape(-1, self.block), flat[len(whole) :]


def _chunks(blocks: Tensor) -> list[slice]:
    """Slices of whole blocks, each of about CHUNK weights."""
    step = max(1, CHUNK // blocks.shape[1])
    return [slice(start, min(start + step, len(blocks))) for start in range(0, len(blocks), step)]


@dataclass(frozen=True)
class HighNibbleFirst:
    """Two codes to a byte over the flattened matrix, and the absmax values as they are.

    byte i:   bits 7 6 5 4   code 2i
              bits 3 2 1 0   code 2i + 1     (the missing partner of a last odd code is that of the weight 0)
    """

    zero: int  # the code of the weight 0
    double_quant: bool = False

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"weight": uint8 [bytes, 1], "weight.absmax": float32 [blocks]}, or its three double quantized parts."""
        flat = q.flatten()
        if len(flat) % 2:
            flat = torch.cat([flat, torch.tensor([self.zero], dtype=torch.uint8)])
        weight = (flat[0::2, None] << 4) | flat[1::2, None]
        if not self.double_quant:
            return {"weight": weight, "weight.absmax": p["absmax"]}
        return {
            "weight": weight,
            "weight.absmax": p["absmax8"],
            "weight.nested_absmax": p["absmax2"],
            "weight.nested_offset": p["offset"],
        }

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """The codes uint8 [n, k] and what is stored of the parameters."""
        octets = parts["weight"].flatten()
        q = torch.stack([octets >> 4, octets & 15], -1).flatten()[: shape[0] * shape[1]].reshape(shape)
        if not self.double_quant:
            return q, {"absmax": parts["weight.absmax"]}
        stored = {"absmax8": "absmax", "absmax2": "nested_absmax", "offset": "nested_offset"}
        return q, {name: parts[f"weight.{part}"] for name, part in stored.items()}


_REFERENCE = Reference("bitsandbytes", "0.50.2", Fidelity.BIT_EXACT, "its CPU backend; CUDA may differ at a midpoint")


def _build(codebook: Codebook, nested: bool, block: int) -> Format:
    name = f"{codebook.name}_dq" if nested else codebook.name
    zero = int(codebook.nearest(torch.zeros(1)))
    packing = HighNibbleFirst(zero, nested)
    return Format(name, FlatBlocks(codebook, block, nested), packing, layout(name).with_block(block), _REFERENCE)


BUILDERS: dict[str, Callable[..., Format]] = {
    "nf4": lambda *, block=64, double_quant=False: _build(NF4, double_quant, block),
    "fp4": lambda *, block=64, double_quant=False: _build(FP4, double_quant, block),
    "nf4_dq": lambda *, block=64: _build(NF4, True, block),
    "fp4_dq": lambda *, block=64: _build(FP4, True, block),
}
