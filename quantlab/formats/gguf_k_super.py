"""Super-blocks of 256 weights: how the K-quants cut a matrix up, and hand it to the cache a piece at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SUPER = 256  # weights in a super-block
_AT_ONCE = 1024  # super-blocks: with the work space of a search, what fits the cache


def super_blocks(W: Tensor) -> Tensor:
    """Rows [n, k] cut into super-blocks [n k / 256, 256]. Raises ValueError unless 256 divides k."""
    if W.shape[1] % SUPER:
        raise ValueError(
            f"rows of {W.shape[1]} weights do not divide into groups of {SUPER}; "
            "take a format of blocks of 32 such as q8_0 or q4_0"
        )
    return W.reshape(-1, SUPER)


def importance_blocks(importance: Tensor, n: int) -> Tensor:
    """The importance of the columns [k], for the super-blocks of n rows: [n k / 256, 256]."""
    return super_blocks(importance.float().expand(n, -1))


def columns(blocks: Tensor, g: int) -> Tensor:
    """Super-blocks [S, 256] -> sub-blocks of g weights as columns [g, S 256/g], contiguous."""
    return blocks.reshape(-1, g).t().contiguous()


def by_parts(work: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """What `work` makes of the super-blocks of these tensors, some at a time; first dimensions end to end."""
    made = [work(*part) for part in zip(*(tensor.split(_AT_ONCE) for tensor in tensors), strict=True)]
    return tuple(torch.cat(each) for each in zip(*made, strict=True))


def stored_half(d: Tensor) -> Tensor:
    """A super-block's scale rounded to float16, as float32. Raises ValueError where it would be infinite or no number.

    llama.cpp stores infinity there; where its float32 sums overflow as well, zeros in place of huge weights.
    """
    half = d.to(torch.float16).float()
    if not torch.isfinite(half).all():
        worst = d[~torch.isfinite(half)][0].item()
        needed = f"{worst:g}" if worst == worst else "more than float32 holds"
        raise ValueError(
            f"a super-block needs a scale of {needed}, beyond a float16 scale; rescale the weights or the importance"
        )
    return half
