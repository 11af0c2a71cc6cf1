"""Formats made in this process: quantlab's own, by any of its methods, and bitsandbytes.

All start from the same bfloat16 weights. What was quantized is dequantized to float32 and run by the same PyTorch code
as the baseline, in float32, so that all the difference is the format's; embeddings, output head and norms stay as they
are, but for the norms that a method folds its scales into.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from quantlab.backends import bitsandbytes
from quantlab.core import Format
from quantlab.errors import QuantlabError
from quantlab.evaluate.candidates import BF16_BYTES, Candidate, NotApplicableError, Subject
from quantlab.evaluate.logits import TorchLogits
from quantlab.methods import catalog as methods
from quantlab.methods.rtn import rtn
from quantlab.models.quantize import quantize
from quantlab.models.quantized import Quantized


@contextmanager
def baseline(subject: Subject) -> Iterator[Candidate]:
    """The model as it is."""
    nbytes = BF16_BYTES * subject.weights
    yield Candidate(
        TorchLogits(subject.loaded.model), nbytes, subject.weights, nbytes + subject.kept_nbytes, 0.0,
        "bfloat16 weights, float32 arithmetic",
    )  # fmt: skip


@contextmanager
def rounded(fmt: Format, subject: Subject) -> Iterator[Candidate]:
    """Round to nearest in a format of quantlab's."""
    _require_divides(fmt, subject)
    start = time.perf_counter()
    quantized = {layer: rtn(W, None, fmt) for layer, W in subject.linear.items()}
    seconds = time.perf_counter() - start
    nbytes = sum(Q.nbytes for Q in quantized.values())
    weights = {f"{layer}.weight": Q.dequantize() for layer, Q in quantized.items()}
    yield torch_candidate(subject, weights, nbytes, seconds)


@contextmanager
def by_method(method: str, fmt: Format, subject: Subject) -> Iterator[Candidate]:
    """A method of quantlab's in one of its formats, block by block, on the subject's calibration text."""
    _require_divides(fmt, subject)
    calibration = subject.calibration if methods.get(method).needs_stats else None
    try:
        done = quantize(subject.loaded, method, fmt, calibration, progress=lambda what, share: subject.report(what))
    except QuantlabError as error:
        raise NotApplicableError(str(error)) from error
    weights = _taken_out(done)
    nbytes = sum(Q.nbytes for Q in done.tensors.values())
    note = f"calibrated on {done.tokens:,} tokens" if done.tokens else ""
    yield torch_candidate(subject, weights, nbytes, done.seconds, note, done.peak_bytes)


def _taken_out(done: Quantized) -> dict[str, Tensor]:
    """The parameters that quantizing changed, by name; the model, with which others are compared, gets its own back."""
    try:
        after = {name: p.detach().clone() for name, p in done.loaded.model.named_parameters()}
    finally:
        model = done.undo().model
    before = dict(model.named_parameters())
    return {name: W for name, W in after.items() if not torch.equal(W, before[name])}


@contextmanager
def by_bitsandbytes(kind: str, subject: Subject) -> Iterator[Candidate]:
    """NF4 or FP4, by bitsandbytes' own functions."""
    start = time.perf_counter()
    quantized = {layer: bitsandbytes.quantize(W, kind) for layer, W in subject.linear.items()}
    seconds = time.perf_counter() - start
    nbytes = sum(Q.nbytes for Q in quantized.values())
    weights = {f"{layer}.weight": Q.dequantize() for layer, Q in quantized.items()}
    yield torch_candidate(subject, weights, nbytes, seconds, "dequantized by bitsandbytes, float32 arithmetic")


def _require_divides(fmt: Format, subject: Subject) -> None:
    """Raise NotApplicableError where rows do not divide into the format's groups."""
    ill = {W.shape[1] for W in subject.linear.values() if not fmt.divides(W.shape[1])}
    if ill:
        raise NotApplicableError(
            f"rows of {listed(ill)} weights do not divide into groups of {fmt.layout.block}; take smaller groups"
        )


def torch_candidate(
    subject: Subject, weights: dict[str, Tensor], nbytes: int, seconds: float, note: str = "", peak: int | None = None
) -> Candidate:
    """The model with other weights; nbytes: of its linear layers."""
    source = TorchLogits(subject.loaded.model, weights)
    return Candidate(source, nbytes, subject.weights, nbytes + subject.kept_nbytes, seconds, note, peak)


def listed(numbers: set[int]) -> str:
    """`192 and 320`."""
    return " and ".join(str(number) for number in sorted(numbers))
