"""The production libraries on one layer, live: what they do there is what they do on every layer of every model.

    llm_compressor_gptq(W, stats)     llm-compressor's `quantize_weight`: the weights that it would store
    autoawq_scale(W, X)               AutoAWQ's `_search_best_scale`: the scale that it would fold in

A whole model takes them minutes; lab 3 runs them whole. `DIFFERENCES` says in which things they differ, each read in
the library's source or documentation. GPTQModel lives in an environment of its own (`quantlab env create gptqmodel`).
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantlab.core import LayerStats
from quantlab.formats.int_affine import IntAffine

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = {
    "AutoAWQ": "AutoAWQ 0.2.9, awq/quantize/quantizer.py and awq/utils/calib_data.py",
    "llm-compressor": "llm-compressor 0.14, modifiers/gptq/base.py and modifiers/transform/awq/base.py",
    "GPTQModel": "GPTQModel 7.7, quantization/config.py",
    "quantlab": "quantlab/methods",
}
QUESTIONS = ("methods", "judged by", "each block sees", "column order", "groups", "clips", "long texts", "writes")
DIFFERENCES: dict[str, tuple[str, ...]] = {  # in the order of QUESTIONS
    "AutoAWQ": (
        "AWQ", "the output of the whole attention or MLP", "the original model's inputs", "-", "with a zero point",
        "10 ranges, not in q and k", "dropped without a word", "AWQ (GEMM)",
    ),
    "llm-compressor": (
        "GPTQ, AWQ, SmoothQuant, ...", "H; for AWQ the output of attention or MLP",
        "what the quantized blocks before it send", "loudest first, groups stay (actorder static)",
        "symmetric (W4A16) or with a zero point", "no", "cut at max_seq_length", "compressed-tensors",
    ),
    "GPTQModel": (
        "GPTQ, AWQ, GPTAQ, ...", "H", "what the quantized layers before it send (true sequential)",
        "group by group (act_group_aware)", "symmetric", "only with mse", "the caller's business", "GPTQ, AWQ (GEMM)",
    ),
    "quantlab": (
        "GPTQ, AWQ, HQQ, both together", "H alone, no forward pass", "either, as asked (sequential)",
        "loudest first, groups stay", "as the format says", "10 ranges, everywhere", "refused, or cut when asked",
        "all of these, and GGUF",
    ),
}  # fmt: skip


def differences() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows of the table: a row for each question, a column for each library."""
    rows = [(question, *(answers[at] for answers in DIFFERENCES.values())) for at, question in enumerate(QUESTIONS)]
    return ("", *DIFFERENCES), rows


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' farewells and warnings: the lesson says what they say."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()), _llm_compressor_at("CRITICAL"):
        warnings.simplefilter("ignore")
        _hush()
        yield


@contextmanager
def _llm_compressor_at(level: str) -> Iterator[None]:
    """With llm-compressor, which speaks while it is imported, at this level of its log; afterwards as it was.

    Not with its LLM_COMPRESSOR_LOG_DISABLED: then version 0.14 never makes the level in which its GPTQ reports, and
    fails there; and not for longer, because every process that is started later inherits the variable.
    """
    name = "LLM_COMPRESSOR_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ[name] = level
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _hush() -> None:
    """Silence loguru, with which two of them log, to a stream that they keep; importing them turns it on again."""
    if importlib.util.find_spec("loguru") is not None:
        from loguru import logger

        for name in ("llmcompressor", "compressed_tensors"):
            logger.disable(name)


def llm_compressor_gptq(W: Tensor, stats: LayerStats, grid: IntAffine) -> Tensor:
    """The weights [n, k] that llm-compressor's GPTQ stores for W, with its default order, for the scales of `grid`."""
    with quiet():
        from compressed_tensors.quantization import QuantizationArgs
        from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

        _hush()
        args = QuantizationArgs(
            num_bits=grid.bits, type="int", strategy="group", group_size=grid.group, symmetric=grid.symmetric,
            actorder="weight",  # the name of the static order in this function
        )  # fmt: skip
        p = grid.fit(W)
        middle = 2 ** (grid.bits - 1)
        W_hat, _, alone = quantize_weight(
            W[None].clone(), stats.H[None].clone(), p["scale"][None], p["zero"][None] - middle, None, args
        )
    assert not alone.any(), "llm-compressor gave up on H and rounded to nearest"
    found: Tensor = W_hat[0]
    return found


def autoawq_scale(W: Tensor, X: Tensor, bits: int = 4, group: int = 128) -> Tensor:
    """The scale [k] that AutoAWQ's search finds for a layer W [n, k] on its own, for inputs X [t, k].

    Without duo scaling, which ruins the weights on a CPU (docs/log.md). Judged on its own, as AutoAWQ judges down_proj.
    """
    with quiet():
        from awq.quantize.quantizer import AwqQuantizer

        quantizer: Any = AwqQuantizer.__new__(AwqQuantizer)  # only what its search looks at
        quantizer.w_bit, quantizer.group_size, quantizer.zero_point, quantizer.duo_scaling = bits, group, True, False
        quantizer.max_chunk_memory, quantizer.n_parallel_calib_samples = 2**30, None
        layer = nn.Linear(W.shape[1], W.shape[0], bias=False)
        layer.weight.data.copy_(W)
        holder = nn.ModuleDict({"before": nn.LayerNorm(W.shape[1]), "layer": layer})
        with torch.no_grad():
            scale: Tensor = quantizer._search_best_scale(holder, holder["before"], [layer], X[None])[2]
    return scale
