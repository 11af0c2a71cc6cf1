"""W4A16 in Triton: y = x W', with W in 4 bits as it lies in the file and x in 16 bits.

A step of decoding multiplies each weight once and reads it once, so reading is what takes the time. The kernel
therefore reads the *packed* words and turns them into numbers on the way to the multiplication: nothing of 16 bits is
ever written to memory. The layout is compressed-tensors' (what `int4_g128` stores and vLLM loads):

    packed  int32    [n, k/8]     eight codes a word, the first in the lowest bits; a code c stands for c - 8
    scale   float16  [n, k/g]     one for each group of g weights of a row

One program makes BLOCK_N outputs of one row of x. It walks along k, BLOCK_K weights at a time:

    words   [BLOCK_N, BLOCK_K/8]  read once, whole
    q       (words >> 4 i) & 15   eight times: the i-th code of every word
    x_i     x[8 j + i]            the inputs that these codes are multiplied with
    total   += sum over j of (q - 8) * x_i * scale

All sums in float32. It is written for few texts at once (`batch` rows of x are read by as many programs, and the
weights stay in the cache between them); with many, tensor cores and `tl.dot` win, which is what Marlin is for.
Source of the idea: Frantar et al. 2024, "MARLIN", arXiv 2408.11743; Triton's tutorial 3 for the shape of a kernel.
Import this module only where `quantlab.kernels.available()` is None.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CODES = 8  # in a word of 32 bits
MIDDLE = 8  # the code that stands for zero


@triton.jit  # type: ignore[untyped-decorator]
def w4a16_kernel(  # type: ignore[no-untyped-def]
    x, packed, scale, y, N, K, GROUP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: outputs n of row m. x [m, K], packed [N, K/8], scale [N, K/GROUP], y [m, N]."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # which outputs
    m = tl.program_id(1)  # which text
    total = tl.zeros((BLOCK_N,), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        j = start // 8 + tl.arange(0, BLOCK_K // 8)  # which words of a row
        here = (n[:, None] < N) & (j[None, :] < K // 8)
        words = tl.load(packed + n[:, None] * (K // 8) + j[None, :], mask=here, other=0)
        s = tl.load(scale + n[:, None] * (K // GROUP) + (8 * j[None, :]) // GROUP, mask=here, other=0.0).to(tl.float32)
        part = tl.zeros((BLOCK_N, BLOCK_K // 8), dtype=tl.float32)
        for i in tl.static_range(8):
            q = ((words >> (4 * i)) & 15).to(tl.float32) - 8.0
            x_i = tl.load(x + m * K + 8 * j + i, mask=j < K // 8, other=0.0).to(tl.float32)
            part += q * x_i[None, :]
        total += tl.sum(part * s, axis=1)
    tl.store(y + m * N + n, total, mask=n < N)


def matmul(x: Tensor, packed: Tensor, scale: Tensor, block_n: int = 16, block_k: int = 512) -> Tensor:
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
    block_k = min(block_k, triton.next_power_of_2(k))
    grid = (triton.cdiv(n, block_n), m)
    w4a16_kernel[grid](x, packed, scale, y, n, k, k // scale.shape[1], block_n, block_k)
    return y
