"""W4A16 in Triton: y = x W', with W in 4 bits as it lies in the file and x in 16 bits.

A step of decoding multiplies each weight once and reads it once, so reading is what takes the time. The kernel
therefore reads the *packed* words and turns them into numbers on the way to the multiplication: nothing of 16 bits is
ever written to memory. The layout is compressed-tensors' (what `int4_g128` stores and vLLM loads):

    packed  int32    [n, k/8]     eight codes a word, the first in the lowest bits; a code c stands for c - 8
    scale   float16  [n, k/g]     one for each group of g weights of a row

One program makes BLOCK_N outputs of one row of x. It walks along k, BLOCK_G runs of SPAN words at a time (the words
of a run share their scale):

    words   [BLOCK_N, BLOCK_G, SPAN]  read once, whole
    q       [BLOCK_N, BLOCK_G, SPAN]  eight times: the i-th code of every word, less 8
    x_i     x[8 j + i]                the inputs that these codes are multiplied with
    total   += sum over the run of q * x_i, times the scale

A GPU reads faster than it counts: at 3 TB/s and 1.7 GHz each of an H100's 16,896 lanes has some 40 clock ticks for a
word, and turning eight integers into floats one by one takes many of them. So the codes become floats without a
conversion: 2^23 is the float whose last bit counts 1, so the bits of a code, put where its last bits are, make 2^23 + c
(2^23 + 16^i c where the code stands i places higher, and then x_i / 16^i pays it back: exact, a power of two).

All sums in float32. It is written for few texts at once (the programs of all `batch` rows of x that need the same
weights run side by side, so that these stay in the cache); with many, tensor cores and `tl.dot` win, which is what
Marlin is for.
Source of the idea: Frantar et al. 2024, "MARLIN", arXiv 2408.11743; Triton's tutorial 3 for the shape of a kernel.
Import this module only where `quantlab.kernels.available()` is None.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

CODES = 8  # in a word of 32 bits
SPANS = 16  # words that a run has at most


@triton.jit  # type: ignore[untyped-decorator]
def code(words, i: tl.constexpr):  # type: ignore[no-untyped-def]
    """16^i (c - 8) as a float: c is the i-th code of each word; for i >= 5, 16^(i - 5) (c - 8)."""
    place: tl.constexpr = i % 5
    high = words if i < 5 else words >> 20
    bits = (high & (15 << 4 * place)) | 0x4B000000  # 0x4B000000 is 2^23
    return bits.to(tl.float32, bitcast=True) - (8388608.0 + 8 * 16**place)


@triton.jit  # type: ignore[untyped-decorator]
def w4a16_kernel(  # type: ignore[no-untyped-def]
    x, packed, scale, y, N, K, GROUP: tl.constexpr, SPAN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """One program: outputs n of row m. x [m, K], packed [N, K/8], scale [N, K/GROUP], y [m, N]."""
    m = tl.program_id(0)  # which text
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)  # which outputs
    total = tl.zeros((BLOCK_N, BLOCK_G, SPAN), dtype=tl.float32)
    for start in range(0, K // 8 // SPAN, BLOCK_G):
        run = start + tl.arange(0, BLOCK_G)
        j = run[:, None] * SPAN + tl.arange(0, SPAN)[None, :]  # which words of a row
        inside = j < K // 8
        here = (n < N)[:, None, None] & inside[None, :, :]
        words = tl.load(packed + n[:, None, None] * (K // 8) + j[None, :, :], mask=here, other=0)
        s = tl.load(
            scale + n[:, None] * (K // GROUP) + (8 * SPAN * run // GROUP)[None, :],
            mask=(n < N)[:, None] & (8 * SPAN * run < K)[None, :],
            other=0.0,
        )
        part = tl.zeros((BLOCK_N, BLOCK_G, SPAN), dtype=tl.float32)
        for i in tl.static_range(8):
            x_i = tl.load(x + m * K + 8 * j + i, mask=inside, other=0.0).to(tl.float32) * (1 / 16 ** (i % 5))
            part += code(words, i) * x_i[None, :, :]
        total += part * s.to(tl.float32)[:, :, None]
    tl.store(y + m * N + n, tl.sum(tl.sum(total, axis=2), axis=1), mask=n < N)


def matmul(  # the blocks: the best of 13 on an H200, docs/log.md
    x: Tensor, packed: Tensor, scale: Tensor, block_n: int = 16, block_g: int = 16, num_warps: int = 4
) -> Tensor:
    """y [m, n] = x [m, k] times the weights of packed [n, k/8] and scale [n, k/g], in x's type.

    On a GPU, or with TRITON_INTERPRET=1 in the environment before Triton is imported anywhere.
    Raises ValueError for shapes or types that do not belong together.
    """
    (m, k), (n, words) = x.shape, packed.shape
    if packed.dtype != torch.int32 or words * CODES != k:
        raise ValueError(
            f"packed must be int32 [n, {k // CODES}] for inputs of {k}, it is {packed.dtype} [{n}, {words}]"
        )
    if scale.shape[0] != n or k % scale.shape[1] or (k // scale.shape[1]) % CODES:
        raise ValueError(f"scale must be [{n}, groups] with groups of whole words, it is {list(scale.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"the inputs must be floating point, they are {x.dtype}")
    x, packed, scale = x.contiguous(), packed.contiguous(), scale.contiguous()
    y = torch.empty((m, n), dtype=x.dtype, device=x.device)
    group = k // scale.shape[1]
    span = math.gcd(group // CODES, SPANS)
    block_g = min(block_g, triton.next_power_of_2(words // span))
    grid = (m, triton.cdiv(n, block_n))
    w4a16_kernel[grid](x, packed, scale, y, n, k, group, span, block_n, block_g, num_warps=num_warps)
    return y
