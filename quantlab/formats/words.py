"""Codes of a few bits end to end, as every packing of integers stores them: the first code in the lowest bits.

Eight codes of b bits fill b bytes, whatever b is; so the pattern repeats every eight codes, and packing is eight shifts
of whole tensors. A code may lie across two bytes:

    b = 3      byte 0: c c b b b a a a      byte 1: f e e e d d d c      byte 2: h h h g g g f f

Four bytes are one 32-bit word (the lowest byte first, as every machine that torch runs on stores it). GPTQ's and
compressed-tensors' 3-bit codes that lie across two *words* are nothing else. AutoAWQ alone deals each eight codes out
in another `order`, 0 2 4 6 1 3 5 7, so that its CUDA kernel finds two neighbours 16 bits apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IN_ORDER = tuple(range(8))


def pack_words(q: Tensor, bits: int, order: Sequence[int] = IN_ORDER) -> Tensor:
    """Codes uint8 [..., m] below 2^bits -> int32 [..., ceil(m * bits / 32)]; what a last word has left over is 0.

    Of each eight codes, slot i takes the code order[i]. Raises ValueError for a code of more bits: it would run into
    its neighbour.

    >>> [hex(word) for word in pack_words(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0, 9], dtype=torch.uint8), 4).tolist()]
    ['0x7654321', '0x9']
    """
    if q.numel() and (top := int(q.max())) >= 2**bits:
        raise ValueError(f"code {top} does not fit in {bits} bits; take the packing of the grid that made it")
    m = q.shape[-1]
    words = -(-m * bits // 32)
    eights = -(-words * 32 // (8 * bits))  # enough for whole words
    if spare := 8 * eights - m:
        q = torch.nn.functional.pad(q, (0, spare))
    octets = q.new_zeros(*q.shape[:-1], eights, bits)
    for slot, code in enumerate(order):
        byte, shift = divmod(slot * bits, 8)
        codes = q[..., code::8]
        octets[..., byte] |= codes << shift
        if shift + bits > 8:
            octets[..., byte + 1] |= codes >> (8 - shift)
    flat = octets.flatten(-2)
    if flat.shape[-1] > 4 * words:
        flat = flat[..., : 4 * words].clone(memory_format=torch.contiguous_format)
    return flat.view(torch.int32)


def unpack_words(words: Tensor, bits: int, m: int, order: Sequence[int] = IN_ORDER) -> Tensor:
    """The inverse of `pack_words`: int32 [..., words] -> codes uint8 [..., m].

    >>> unpack_words(torch.tensor([0x7654321, 0x9], dtype=torch.int32), 4, 9)
    tensor([1, 2, 3, 4, 5, 6, 7, 0, 9], dtype=torch.uint8)
    """
    octets = words.contiguous().view(torch.uint8)
    eights = -(-m // 8)
    if (spare := eights * bits - octets.shape[-1]) > 0:
        octets = torch.nn.functional.pad(octets, (0, spare))
    octets = octets[..., : eights * bits].reshape(*octets.shape[:-1], eights, bits)
    q = octets.new_empty(*octets.shape[:-2], eights, 8)
    for slot, code in enumerate(order):
        byte, shift = divmod(slot * bits, 8)
        codes = octets[..., byte] >> shift
        if shift + bits > 8:
            codes |= octets[..., byte + 1] << (8 - shift)
        q[..., code] = codes & (2**bits - 1)
    codes = q.flatten(-2)[..., :m]
    return codes.contiguous()
