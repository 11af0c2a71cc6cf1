"""K-quants of a 4096 x 4096 layer: ours in torch against llama.cpp's C code on one thread."""

from __future__ import annotations

import functools
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import torch
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


def _ours(name: str) -> Measure:
    def seconds() -> float:
        start = time.perf_counter()
        quantize_tensor(_layer(), name)
        return time.perf_counter() - start

    return seconds


def _theirs(name: str) -> Measure:
    return lambda: _ggml().seconds(name, _layer())


def _row(name: str) -> Versus:
    against = "llama.cpp's C code (llama-cpp-python 0.3.36), one thread"
    return Versus(f"{name} of a 4096 x 4096 layer", against, 1 / 3, _ours(name), _theirs(name), repeats=3)


ROWS: tuple[Versus, ...] = tuple(_row(name) for name in ("q4_k", "q6_k"))
