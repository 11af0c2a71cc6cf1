"""The bytes of llama.cpp's K-quants: one super-block of 256 weights after the other, one row after the other.

A super-block is 8 sub-blocks of 32 weights (Q4_K, Q5_K) or 16 of 16 (Q2_K, Q3_K, Q6_K). Codes of 3, 5 and 6 bits are
cut in two, so that each piece fits a byte evenly: 5 = 4 + 1, 6 = 4 + 2, 3 = 2 + 1. All pieces are laid out by one rule,
`join`: weights far apart share a byte, so that a vector instruction reads neighbours from neighbouring bytes.

    Q2_K   scales 16 | qs 64 | d 2 | dmin 2                      84 bytes, 2.625 bits a weight
    Q3_K   hmask 32 | qs 64 | scales 12 | d 2                   110 bytes, 3.4375
    Q4_K   d 2 | dmin 2 | scales 12 | qs 128                    144 bytes, 4.5
    Q5_K   d 2 | dmin 2 | scales 12 | qh 32 | qs 128            176 bytes, 5.5
    Q6_K   ql 128 | qh 64 | scales 16 | d 2                     210 bytes, 6.5625

d and dmin are float16, little-endian. The names of the fields are those of llama.cpp's structs.

Reference: llama.cpp, ggml-common.h (`block_q2_K` to `block_q6_K`), release of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quantlab.core import Params, Parts


def join(pieces: Tensor, bits: int) -> Tensor:
    """Pieces of `bits` bits [..., m, l] -> bytes [..., l]: piece j of each byte lies `bits * j` bits up.

    >>> join(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8), 4)  # 0x31 and 0x42
    tensor([49, 66], dtype=torch.uint8)
    """
    octets, *others = pieces.unbind(-2)
    for j, piece in enumerate(others, 1):
        octets = octets | (piece << bits * j)
    return octets


def split(octets: Tensor, bits: int, m: int) -> Tensor:
    """The inverse of `join`: bytes [..., l] -> m pieces of `bits` bits [..., m, l].

    >>> split(torch.tensor([49, 66], dtype=torch.uint8), 4, 2).tolist()
    [[1, 2], [3, 4]]
    """
    return torch.stack([(octets >> bits * j) & (2**bits - 1) for j in range(m)], dim=-2)


def join_six(scale: Tensor, minimum: Tensor) -> Tensor:
    """8 scales and 8 minima of 6 bits, uint8 [..., 8] each -> 12 bytes (Q4_K and Q5_K).

    byte  0..3    s4..s7 high 2 | s0..s3         the first four whole, the others' high bits above them
    byte  4..7    m4..m7 high 2 | m0..m3
    byte  8..11   m4..m7 low 4  | s4..s7 low 4
    """
    s, s_late = scale.split(4, -1)
    m, m_late = minimum.split(4, -1)
    whole = [s | ((s_late >> 4) << 6), m | ((m_late >> 4) << 6)]
    return torch.cat([*whole, (s_late & 15) | ((m_late & 15) << 4)], dim=-1)


def split_six(octets: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `join_six`: 12 bytes -> (scale [..., 8], minimum [..., 8])."""
    s, m, low = octets.split(4, -1)
    s_late, m_late = (low & 15) | ((s >> 6) << 4), (low >> 4) | ((m >> 6) << 4)
    return torch.cat([s & 63, s_late], -1), torch.cat([m & 63, m_late], -1)


def half_bytes(d: Tensor) -> Tensor:
    """float16 numbers [...] as their two bytes [..., 2]."""
    return d.to(torch.float16).contiguous().unsqueeze(-1).view(torch.uint8)


def half_numbers(octets: Tensor) -> Tensor:
    """The inverse of `half_bytes`, as float32."""
    return octets.contiguous().view(torch.float16).squeeze(-1).float()


class _Blocks:
    """What the five packings share: fields end to end, super-blocks end to end."""

    fields: ClassVar[tuple[int, ...]]  # bytes of each field

    def _split(self, parts: Parts) -> tuple[Tensor, ...]:
        """The fields of each super-block, [super-blocks, bytes]."""
        split: tuple[Tensor, ...] = parts["blocks"].reshape(-1, sum(self.fields)).split(self.fields, -1)
        return split


def _blocks(n: int, *fields: Tensor) -> Parts:
    """{"blocks": uint8 [n, bytes of a row]} from fields [super-blocks, bytes]."""
    return {"blocks": torch.cat([field.reshape(len(field), -1) for field in fields], -1).reshape(n, -1)}


def _of(q: Tensor, *shape: int) -> Tensor:
    """One row for each super-block: [n, k] -> [super-blocks, *shape]."""
    return q.reshape(-1, *shape)


def _params(n: int, **each: Tensor) -> Params:
    """Parameters of the super-blocks side by side again, one row for each row of the matrix."""
    return {name: value.reshape(n, -1) for name, value in each.items()}


@dataclass(frozen=True)
class Q2K(_Blocks):
    """Q2_K: 16 bytes of 4-bit scales (low) and minima (high), then codes of 2 bits, four a byte, 32 apart."""

    fields = (16, 64, 2, 2)

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"blocks": uint8 [n, 84 k / 256]}."""
        scales = join(torch.stack([_of(p["scale"], 16), _of(p["min"], 16)], 1), 4)
        qs = join(_of(q, 2, 4, 32), 2)
        return _blocks(len(q), scales, qs, half_bytes(_of(p["d"])), half_bytes(_of(p["dmin"])))

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """Codes uint8 [n, k]; d, dmin [n, k/256]; scale, min [n, k/16]."""
        scales, qs, d, dmin = self._split(parts)
        scale, minimum = split(scales, 4, 2).unbind(1)
        q = split(qs.reshape(-1, 2, 32), 2, 4)
        return q.reshape(shape), _params(shape[0], d=half_numbers(d), dmin=half_numbers(dmin), scale=scale, min=minimum)


@dataclass(frozen=True)
class Q3K(_Blocks):
    """Q3_K: high bits eight a byte, low 2 bits as in Q2_K, 16 scales of 6 bits (stored + 32).

    scales, byte 0..7     s8..s15 low 4 | s0..s7 low 4
    scales, byte 8..11    s12..s15 | s8..s11 | s4..s7 | s0..s3, the high 2 of each
    """

    fields = (32, 64, 12, 2)

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"blocks": uint8 [n, 110 k / 256]}."""
        hmask, qs = join(_of(q >> 2, 8, 32), 1), join(_of(q & 3, 2, 4, 32), 2)
        s = (_of(p["scale"], 16) + 32).to(torch.uint8)
        scales = torch.cat([join(_of(s & 15, 2, 8), 4), join(_of(s >> 4, 4, 4), 2)], -1)
        return _blocks(len(q), hmask, qs, scales, half_bytes(_of(p["d"])))

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """Codes uint8 [n, k]; d [n, k/256]; scale int8 [n, k/16] from -32 to 31."""
        hmask, qs, scales, d = self._split(parts)
        low, high = split(scales[:, :8], 4, 2), split(scales[:, 8:], 2, 4)
        scale = (low.flatten(1) | (high.flatten(1) << 4)).to(torch.int8) - 32
        q = split(qs.reshape(-1, 2, 32), 2, 4).flatten(1) | (split(hmask, 1, 8).flatten(1) << 2)
        return q.reshape(shape), _params(shape[0], d=half_numbers(d), scale=scale)


@dataclass(frozen=True)
class Q4K(_Blocks):
    """Q4_K: 6-bit scales and minima (`join_six`), then codes of 4 bits: sub-blocks 2j and 2j + 1 share 32 bytes."""

    fields = (2, 2, 12, 128)

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"blocks": uint8 [n, 144 k / 256]}."""
        scales = join_six(_of(p["scale"], 8), _of(p["min"], 8))
        qs = join(_of(q, 4, 2, 32), 4)
        return _blocks(len(q), half_bytes(_of(p["d"])), half_bytes(_of(p["dmin"])), scales, qs)

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """Codes uint8 [n, k]; d, dmin [n, k/256]; scale, min [n, k/32]."""
        d, dmin, scales, qs = self._split(parts)
        scale, minimum = split_six(scales)
        q = split(qs.reshape(-1, 4, 32), 4, 2)
        return q.reshape(shape), _params(shape[0], d=half_numbers(d), dmin=half_numbers(dmin), scale=scale, min=minimum)


@dataclass(frozen=True)
class Q5K(_Blocks):
    """Q5_K: as Q4_K, and the fifth bits: bit j of byte l is that of weight l of sub-block j."""

    fields = (2, 2, 12, 32, 128)

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"blocks": uint8 [n, 176 k / 256]}."""
        scales = join_six(_of(p["scale"], 8), _of(p["min"], 8))
        qh, qs = join(_of(q >> 4, 8, 32), 1), join(_of(q & 15, 4, 2, 32), 4)
        return _blocks(len(q), half_bytes(_of(p["d"])), half_bytes(_of(p["dmin"])), scales, qh, qs)

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """Codes uint8 [n, k]; d, dmin [n, k/256]; scale, min [n, k/32]."""
        d, dmin, scales, qh, qs = self._split(parts)
        scale, minimum = split_six(scales)
        q = split(qs.reshape(-1, 4, 32), 4, 2).flatten(1) | (split(qh, 1, 8).flatten(1) << 4)
        return q.reshape(shape), _params(shape[0], d=half_numbers(d), dmin=half_numbers(dmin), scale=scale, min=minimum)


@dataclass(frozen=True)
class Q6K(_Blocks):
    """Q6_K: low 4 bits of weights l and l + 64 of each half share a byte, high 2 bits of four weights 32 apart."""

    fields = (128, 64, 16, 2)

    def pack(self, q: Tensor, p: Params) -> Parts:
        """{"blocks": uint8 [n, 210 k / 256]}."""
        ql, qh = join(_of(q & 15, 2, 2, 64), 4), join(_of(q >> 4, 2, 4, 32), 2)
        return _blocks(len(q), ql, qh, _of(p["scale"], 16).view(torch.uint8), half_bytes(_of(p["d"])))

    def unpack(self, parts: Parts, shape: tuple[int, int]) -> tuple[Tensor, Params]:
        """Codes uint8 [n, k]; d [n, k/256]; scale int8 [n, k/16]."""
        ql, qh, scales, d = self._split(parts)
        low, high = split(ql.reshape(-1, 2, 64), 4, 2), split(qh.reshape(-1, 2, 32), 2, 4)
        q = low.flatten(1) | (high.flatten(1) << 4)
        return q.reshape(shape), _params(shape[0], d=half_numbers(d), scale=scales.contiguous().view(torch.int8))
