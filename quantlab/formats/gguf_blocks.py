"""The bytes of llama.cpp's blocks of 32 weights: one block after the other, one row after the other.

    q4_0, iq4_nl   d 2 | qs 16                        18 bytes, 4.5 bits a weight
    q4_1           d 2 | m 2 | qs 16                  20 bytes, 5
    q5_0           d 2 | qh 4 | qs 16                 22 bytes, 5.5
    q5_1           d 2 | m 2 | qh 4 | qs 16           24 bytes, 6
    q8_0           d 2 | qs 32, int8                  34 bytes, 8.5

    qs, byte j:    q[j + 16] | q[j]                   the low 4 bits of two weights half a block apart
    qh, bit j:     the fifth bit of q[j]              32 bits, little-endian

d and m are float16, little-endian. The names of the fields are those of llama.cpp's structs. Half a block apart: a
vector instruction masks out 16 neighbours at once, shifts, and has the other 16.

Reference: llama.cpp, ggml-common.h (`block_q4_0` to `block_q8_0`, `block_iq4_nl`), release of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quantlab.core import Params, Parts

BLOCK = 32  # weights in a block
_AT_ONCE = 2**12  # blocks rounded together: what fits the cache


def blocks_of(W: Tensor, block: int = BLOCK) -> Tensor:
    """Rows [n, k] cut into blocks, [n, k/block, block]. Raises ValueError unless `block` divides k."""
    if W.shape[1] % block:
        raise ValueError(f"rows of {W.shape[1]} weights do not divide into groups of {block}; choose a divisor of k")
    return W.reshape(len(W), -1, block)


def stored_half(number: Tensor) -> Tensor:
    """Scales or minima rounded to float16, as float32. Raises ValueError where one would be infinite."""
    half = number.to(torch.float16).float()
    if not torch.isfinite(half).all():
        worst = number[~torch.isfinite(half)][0].item()
        raise ValueError(f"a block needs {worst:g}, beyond a float16 scale; rescale the weights")
    return half


def by_parts(rounded: Callable[..., Tensor], dtype: torch.dtype, x: Tensor, *each: Tensor) -> Tensor:
    """Codes [n, k] of blocks x [n, b, g]: `rounded` sees some blocks at a time, and their parameters `each` [n, b]."""
    flat, parameters = x.reshape(-1, x.shape[-1]), [number.reshape(-1, 1) for number in each]
    q = torch.empty(flat.shape, dtype=dtype)
    for start in range(0, len(q), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        q[some] = rounded(flat[some].float(), *(number[some] for number in parameters))
    return q.reshape(len(x), -1)


def join_nibbles(q: Tensor) -> Tensor:
    """Codes [..., 32], uint8 below 16 -> bytes [..., 16], the second half of the block above the first.

    Eight codes at a time: none reaches beyond the low half of its byte, so shifting 64 bits shifts all eight.
    """
    eights = q.contiguous().view(torch.int64)
    return (eights[..., :2] | (eights[..., 2:] << 4)).view(torch.uint8)


def split_nibbles(qs: Tensor) -> Tensor:
    """The inverse of `join_nibbles`: bytes [..., 16] -> codes [..., 32].

    >>> split_nibbles(join_nibbles(torch.arange(32, dtype=torch.uint8) // 2))[[3, 17]].tolist()
    [1, 8]
    """
    return torch.cat([qs & 15, qs >> 4], -1)


def join_bits(bit: Tensor) -> Tensor:
    """Zeros and ones [..., 8 m] -> bytes [..., m], the first in the lowest bit.

    >>> join_bits(torch.tensor([1, 0, 1, 0, 0, 0, 0, 0], dtype=torch.uint8)).tolist()
    [5]
    """
    octets = bit.reshape(*bit.shape[:-1], -1, 8)
    return (octets << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def split_bits(octets: Tensor) -> Tensor:
    """The inverse of `join_bits`."""
    return ((octets[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten(-2)


def half_bytes(number: Tensor) -> Tensor:
    """float32 numbers [...] as the two bytes of their float16 [..., 2]."""
    return number.to(torch.float16).contiguous().unsqueeze(-1).view(torch.uint8)


def half_numbers(octets: Tensor) -> Tensor:
    """The inverse of `half_bytes`."""
    return octets.contiguous().view(torch.float16).squeeze(-1).float()


@dataclass(frozen=True)
class Blocks:
    """d, then m if there is a minimum, then the fifth bits if there are, then the nibbles; or all 8 bits.

    >>> Blocks(bits=5, minimum=True).fields
    (2, 2, 4, 16)
    """

    bits: int
    minimum: bool = False

    @property
    def fields(self) -> tuple[int, ...]:
        """Bytes of each field."""
        codes = {4: (16,), 5: (4, 16), 8: (32,)}[self.bits]
        return (2, *((2,) if self.minimum else ()), *codes)

    @property
    def _numbers(self) -> tuple[str, ...]:
        return ("scale", "min") if self.minimum else ("scale",)

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"blocks": uint8 [n, bytes of a row]} of codes [n, k] (uint8; int8 where they have 8 bits)."""
        fields = [*(half_bytes(p[name]) for name in self._numbers), *self._codes(q.reshape(len(q), -1, BLOCK))]
        return {"blocks": torch.cat(fields, -1).flatten(1)}

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """Codes [n, k]; scale, and min if there is one, float32 [n, k/32]."""
        fields = parts["blocks"].reshape(shape[0], -1, sum(self.fields)).split_with_sizes(self.fields, -1)
        p = {name: half_numbers(field) for name, field in zip(self._numbers, fields, strict=False)}
        return self._from(fields[len(p) :]).reshape(shape), p

    def _codes(self, q: Tensor) -> Sequence[Tensor]:
        if self.bits == 8:
            return [q.view(torch.uint8)]
        nibbles = join_nibbles(q & 15 if self.bits == 5 else q)
        return [nibbles] if self.bits == 4 else [join_bits(q >> 4), nibbles]

    def _from(self, fields: Sequence[Tensor]) -> Tensor:
        if self.bits == 8:
            return fields[0].contiguous().view(torch.int8)
        q = split_nibbles(fields[-1])
        return q if self.bits == 4 else q | (split_bits(fields[0]) << 4)
