"""Blocks of 32 of a 4096 x 4096 layer: ours against the gguf package (numpy), and IQ4 against llama.cpp's C code."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from torch import Tensor

from quantlab.formats.catalog import quantize_tensor

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]
from ggml_oracle import Ggml, library_of  # noqa: E402
from versus import Measure, Versus  # noqa: E402


@functools.cache
def _layer() -> Tensor:
    """Bell-shaped weights of the size that layers have."""
    return torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0)) * 0.02


@functools.cache
def _ggml() -> Ggml:
    found = find_spec("llama_cpp")
    assert found is not None, "llama-cpp-python is not installed"
    return Ggml(library_of(SimpleNamespace(__file__=found.origin)))


def _timed(work: Callable[[], object]) -> Measure:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def _against_gguf(name: str) -> Versus:
    kind = GGMLQuantizationType[name.upper()]
    ours, theirs = (lambda: quantize_tensor(_layer(), name)), (lambda: quantize(_layer().numpy(), kind))
    return Versus(f"{name} of a 4096 x 4096 layer", "gguf.quants 0.19 (numpy)", 2, _timed(ours), _timed(theirs))


def _against_c(name: str) -> Versus:
    against = "llama.cpp's C code (llama-cpp-python 0.3.36), one thread"
    ours, theirs = _timed(lambda: quantize_tensor(_layer(), name)), lambda: _ggml().seconds(name, _layer())
    return Versus(f"{name} of a 4096 x 4096 layer", against, 1 / 3, ours, theirs, repeats=3)


ROWS: tuple[Versus, ...] = (*map(_against_gguf, ("q4_0", "q8_0")), *map(_against_c, ("iq4_nl", "iq4_xs")))
