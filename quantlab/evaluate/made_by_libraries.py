"""Checkpoints that the production libraries make, each in a process of its own; what is in the files is measured.

The library gets the same windows of tokens as quantlab's methods. Its folder is read back, dequantized to float32, and
run by the same PyTorch code as everything else here; its GGUF file is run by llama.cpp. So a figure is that of the
file that a learner would deploy, and not of the library's own arithmetic.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from quantlab.backends.quantizers.making import Text, quantize
from quantlab.backends.quantizers.offers import GGUF, Choice, Wish
from quantlab.backends.quantizers.order import Made
from quantlab.checkpoints.read import load_layers, outline, read_tensors
from quantlab.errors import QuantlabError
from quantlab.evaluate.candidates import BF16_BYTES, Candidate, NotApplicableError, Subject
from quantlab.evaluate.made_by_llama_cpp import gguf_candidate
from quantlab.evaluate.made_here import torch_candidate


@contextmanager
def by_library(wish: Wish, choice: Choice, subject: Subject) -> Iterator[Candidate]:
    """What a library makes of the model; `choice` is what the wish comes to."""
    out = subject.workdir / ("made.gguf" if choice.offer.family in GGUF else "made")
    text = Text(subject.calibrate_on if choice.offer.text else None)
    try:
        made = quantize(
            str(subject.loaded.source.folder), wish, out, calibration=text,
            progress=lambda what, share: subject.report(what),
        )  # fmt: skip
    except QuantlabError as error:
        raise NotApplicableError(str(error)) from error
    try:
        if out.is_file():
            with gguf_candidate(out, made.format, subject, made.seconds, _note(made), made.peak_bytes) as candidate:
                yield candidate
        else:
            weights, nbytes = _read(out, subject)
            yield torch_candidate(subject, weights, nbytes, made.seconds, _note(made), made.peak_bytes)
    finally:
        out.unlink() if out.is_file() else shutil.rmtree(out)


def _note(made: Made) -> str:
    versions = f"{made.library} {next(iter(made.versions.values()), '')}".strip()
    calibrated = f"calibrated on {made.tokens:,} tokens" if made.tokens else ""
    return "; ".join(filter(None, (versions, calibrated, *made.notes)))


def _read(folder: Path, subject: Subject) -> tuple[dict[str, Tensor], int]:
    """Every parameter of a checkpoint in float32, and the bytes of its linear layers."""
    found = outline(folder)
    layers = load_layers(found)
    nbytes = sum(Q.nbytes for Q in layers.values())
    nbytes += sum(BF16_BYTES * W.numel() for name, W in subject.linear.items() if name not in layers)
    weights = {f"{name}.weight": Q.dequantize() for name, Q in layers.items()}
    model: Any = subject.loaded.model
    known: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    if odd := sorted(weights.keys() - known.keys()):
        raise NotApplicableError(f"the library wrote {odd[0]}, which the model does not have")
    plain = read_tensors(found.places, found.plain)
    weights |= {name: W.float() for name, W in plain.items() if name in known}
    tied = {id(W): weights[name] for name, W in known.items() if name in weights}
    return {name: tied[id(W)] for name, W in known.items() if id(W) in tied}, nbytes
