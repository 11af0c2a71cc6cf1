"""Load a model as transformers and bitsandbytes serve it, and weigh what is in memory, tensor by tensor.

    bf16     as published: 2 bytes a weight
    int8     bitsandbytes LLM.int8(): int8 rows with one float32 scale each
    nf4      bitsandbytes NF4: 4-bit codes, one float32 absmax for each block of 64
    nf4_dq   the same with the absmax values themselves in 8 bits (double quantization)

`stored_bytes` counts the scales too. `get_memory_footprint()` of transformers 5.17 does not: it sums parameters and
buffers, and bitsandbytes keeps its scales beside them. Tried with bitsandbytes 0.50.2, on CPU and CUDA devices alike.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from quantlab.backends import bitsandbytes
from quantlab.errors import unknown
from quantlab.models.folder import examine
from quantlab.models.load import ModelSource, quiet, resolve

_SETTINGS: dict[str, dict[str, Any] | None] = {
    "bf16": None,
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4_dq": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}


@dataclass(frozen=True)
class Weighed:
    """A model in memory: bytes by kind, what transformers reports, and the seconds it took."""

    fmt: str
    model: nn.Module
    by_kind: dict[str, int]
    reported_bytes: int
    seconds: float

    @property
    def nbytes(self) -> int:
        """Everything that is stored: weights, scales, embeddings, norms."""
        return sum(self.by_kind.values())


def load_in(model: str | ModelSource, fmt: str, device: str = "cpu") -> Weighed:
    """Load `model` in one of the formats above on a device, and weigh it. Unknown names raise with the nearest."""
    if fmt not in _SETTINGS:
        raise unknown("format", fmt, _SETTINGS)
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    source = resolve(model) if isinstance(model, str) else model
    settings = _SETTINGS[fmt]
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.bfloat16, **settings) if settings else None
    started = time.perf_counter()
    with quiet(), bitsandbytes.quiet():
        loaded = AutoModelForCausalLM.from_pretrained(
            source.folder, dtype=torch.bfloat16, quantization_config=config, device_map=device, local_files_only=True
        )
    seconds = time.perf_counter() - started
    return Weighed(fmt, loaded, stored_bytes(loaded), loaded.get_memory_footprint(return_buffers=False), seconds)


def logits_of(folder: Path, ids: Tensor) -> Tensor:
    """What transformers predicts from a checkpoint as it lies on the disk, quantized or not: [b, t] -> [b, t, vocab].

    On the CPU in float32, from weights in bfloat16: a compressed-tensors checkpoint is dequantized by its own library.
    """
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    unpack = {}
    if "quantization_config" in examine(folder).config:
        unpack["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    with quiet(), redirect_stderr(StringIO()):  # its progress bars cannot be turned off
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True, **unpack)
    with torch.inference_mode():
        logits: Tensor = model.float()(ids).logits
    return logits


def stored_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of a loaded model by kind: quantized codes, their scales, and what was left in 16 bits.

    >>> import torch
    >>> stored_bytes(nn.Linear(4, 2, bias=False, dtype=torch.bfloat16))
    {'16 bit': 16}
    """
    total: Counter[str] = Counter()
    for weight in model.parameters():  # a tied output head comes once
        total["16 bit" if weight.is_floating_point() else "codes"] += weight.nbytes
    for module in model.modules():
        for scale in _scales(module):
            total["scales"] += scale.nbytes
    return dict(total)


def _scales(module: nn.Module) -> Iterator[Tensor]:
    """What bitsandbytes keeps beside a weight: SCB for INT8; absmax, with its own absmax and offset, for NF4."""
    weight = getattr(module, "weight", None)
    if (rows := getattr(weight, "SCB", None)) is not None:
        yield rows
    if (state := getattr(weight, "quant_state", None)) is not None:
        yield state.absmax
        if state.nested:
            yield state.state2.absmax
            yield state.offset
