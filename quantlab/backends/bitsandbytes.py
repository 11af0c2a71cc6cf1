"""bitsandbytes: 4-bit weights in blocks of 64, made and unmade by the library's own functions.

    w_hat = absmax(block) * code[q],   q in {0, ..., 15}, two to a byte, the first in the high nibble

`quantize` calls `bitsandbytes.functional.quantize_4bit`, which is also what `Linear4bit` calls when it moves to a
device, so the bytes are those of a model loaded with `load_in_4bit`. The weights go in as float32 and come out as
float32. `Linear4bit.forward` is not used: on some CPUs it rearranges the weights in place and computes in bfloat16,
which would add the engine's rounding to the format's.

Reference: bitsandbytes 0.50 (Dettmers et al. 2023, QLoRA, arXiv 2305.14314, for NF4 and double quantization).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantlab.core import check_weights
from quantlab.errors import QuantlabError, unknown

KINDS = ("nf4", "fp4")
BLOCK = 64  # weights that share one absmax, the library's default


def available() -> str | None:
    """None when bitsandbytes can be used, else the sentence that says why not and how to get it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed; pip install bitsandbytes"
    try:
        _functional()
    except (ImportError, OSError, RuntimeError) as error:
        return f"bitsandbytes cannot be loaded ({error}); pip install --force-reinstall bitsandbytes"
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Without its warning of a faster kernel on the Hub: nothing is fetched behind the user's back."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _functional() -> Any:
    """The library's functions."""
    with quiet():
        import bitsandbytes.functional as functional
    return functional


@dataclass(frozen=True)
class Blocks4bit:
    """A weight matrix as bitsandbytes stores it."""

    codes: Tensor  # uint8, two codes a byte
    state: Any  # bitsandbytes.functional.QuantState: absmax, code table, shape

    def dequantize(self) -> Tensor:
        """W_hat [n, k], float32."""
        W: Tensor = _functional().dequantize_4bit(self.codes, self.state)
        return W

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and of a float32 absmax for each block, not of the one table of 16 levels."""
        absmax: Tensor = self.state.absmax
        return self.codes.numel() + absmax.numel() * absmax.element_size()


def quantize(W: Tensor, kind: str = "nf4", block: int = BLOCK) -> Blocks4bit:
    """Quantize W [n, k] of finite floats to NF4 or FP4; blocks run along the rows and on into the next row."""
    if kind not in KINDS:
        raise unknown("bitsandbytes format", kind, KINDS)
    if (problem := available()) is not None:
        raise QuantlabError(problem)
    check_weights(W)
    codes, state = _functional().quantize_4bit(W.to(torch.float32).contiguous(), blocksize=block, quant_type=kind)
    return Blocks4bit(codes, state)
