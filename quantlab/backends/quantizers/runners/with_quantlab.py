"""quantlab itself, in a process like the others: its memory is counted alike, and it can be ended alike.

Checkpoints hold what `quantlab.quantize` chose; a GGUF file is one of llama.cpp's mixtures by quantlab's quantizers.

Rounding to nearest is done in the type that the weights were published in, and scales are stored in it, as
llm-compressor does: in float32 one code of some hundred comes out another, and the file would not be the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import quantlab
from quantlab.backends.quantizers.order import ROW
from quantlab.backends.quantizers.whole_gguf import make_gguf
from quantlab.checkpoints.gguf_mixtures import quantize_mixture
from quantlab.checkpoints.write import write_checkpoint
from quantlab.core import Format, LayerStats, QuantizedTensor
from quantlab.formats import awq_pack, catalog, gptq_pack, pack_quantized
from quantlab.methods import catalog as methods
from quantlab.methods.catalog import Method
from quantlab.methods.rtn import rtn
from quantlab.models.calibration import Calibration
from quantlab.models.quantized import Quantized
from quantlab.models.request import KEEP

Say = Callable[[str, float | None], None]
IN_OWN_TYPE = ("int8", "fp8_e4m3_channel", "fp8_e4m3_block128")  # their scales; the others have no choice
PACKAGES = ["quantlab", "torch", "transformers"]


def quantize(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Write a checkpoint or a GGUF file to order["out"]."""
    if order["out"].endswith(".gguf"):
        make_gguf(order, say, quantize_mixture)
        settings = {"mixture": order["format"], "imatrix": order["method"] == "imatrix"}
        return {"packages": PACKAGES, "device": "cpu", "settings": settings, "notes": []}
    fmt, options = build(order)
    windows = tuple(tuple(window) for window in order["windows"])
    calibration = Calibration(windows, max(map(len, windows)), at_least=1) if windows else None
    done = quantlab.quantize(
        order["model"], method(order["method"], fmt, order["dtype"]), fmt, calibration, keep=(*KEEP, *order["keep"]),
        progress=say, resume=Path(order["resume"]) if order["resume"] else None,
    )  # fmt: skip
    say("saving", 1.0)
    made = {**order["made"], "options": options, "versions": {"torch": torch.__version__}}
    write_checkpoint(Path(order["model"]), Path(order["out"]), done.tensors, parameters=changed(done), made=made)
    return {"packages": PACKAGES, "device": "cpu", "settings": options, "notes": []}


def build(order: dict[str, Any]) -> tuple[Format, dict[str, Any]]:
    """The format, and the options that servers need: scales in the model's type, version 2 of GPTQ's zero points."""
    family, group = order["format"].partition("int")[0], None if order["group"] == ROW else order["group"]
    options: dict[str, Any]
    if order["group"] is None:  # the format leaves no choice
        options = {"scale_dtype": getattr(torch, order["dtype"])} if order["format"] in IN_OWN_TYPE else {}
        return catalog.get(order["format"], **options), dict.fromkeys(options, order["dtype"])
    options = {"bits": order["bits"], "group": group, "symmetric": order["symmetric"]}
    if family == "awq_":
        return awq_pack.build(order["format"], group=group), options
    if family == "gptq_":
        options["version"] = 1 if order["symmetric"] else 2
        return gptq_pack.build(order["format"], **options), options
    options["scale_dtype"] = order["dtype"]
    return pack_quantized.build(order["format"], **options), options


def method(name: str, fmt: Format, dtype: str) -> Method:
    """A method by its name, which rounds to nearest in the type of the weights as they were published.

    In NVFP4, layers that a server stacks get one global scale (quantlab.checkpoints.fused).
    """
    found, own = methods.get(name), getattr(torch, dtype)
    if name != "rtn":
        return found
    together = partial(_stacked, dtype=own) if fmt.name == "nvfp4" else None
    return replace(found, quantize=partial(_nearest, dtype=own), together=together)


def _nearest(W: Tensor, stats: LayerStats | None, fmt: Format, dtype: torch.dtype) -> QuantizedTensor:
    return rtn(W.to(dtype), stats, fmt)


def _stacked(Ws: Sequence[Tensor], stats: LayerStats | None, fmt: Format, dtype: torch.dtype) -> list[QuantizedTensor]:
    shared = catalog.get(fmt.name, absmax=max(float(W.abs().max()) for W in Ws))
    return [_nearest(W, stats, shared, dtype) for W in Ws]


def changed(done: Quantized) -> dict[str, Tensor]:
    """Parameters beside the quantized weights that are not what they were: norms and biases with a scale folded in."""
    found = {}
    for name, parameter in done.loaded.model.named_parameters():
        if name.removesuffix(".weight") not in done.tensors:
            with suppress(KeyError):  # never touched
                if not torch.equal(done.journal.before(parameter), parameter):
                    found[name] = parameter.detach()
    return found
