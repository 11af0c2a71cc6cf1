"""The kinds of checkpoints by their `quant_method`, and the kind of a format.

    kind                 formats of quantlab.formats.catalog             written as
    awq                  awq_int4_g*                                     AutoAWQ 0.2.9
    gptq                 gptq_int*_g*                                    GPTQModel 7.7.0
    compressed-tensors   int*_g*, int8, fp8_e4m3*, mxfp4, nvfp4          llm-compressor 0.14
    bitsandbytes         nf4, nf4_dq, fp4, fp4_dq, llm_int8              transformers 5.17

A new kind is one file and one line here. GGUF is a file format of its own: quantlab.checkpoints.gguf.

>>> from quantlab.formats.catalog import get
>>> kind_for(get("nf4")).name
'bitsandbytes'
>>> kind_of({"quantization_config": {"quant_method": "gptq"}}).name
'gptq'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantlab.checkpoints.kind import Kind
from quantlab.checkpoints.kind_awq import Awq
from quantlab.checkpoints.kind_bitsandbytes import BitsAndBytes
from quantlab.checkpoints.kind_compressed_tensors import CompressedTensors
from quantlab.checkpoints.kind_gptq import Gptq
from quantlab.core import Format
from quantlab.errors import QuantlabError

__all__ = ["KINDS", "Kind", "kind_for", "kind_of"]

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Awq(), Gptq(), CompressedTensors(), BitsAndBytes())}


def kind_of(config: Mapping[str, Any]) -> Kind | None:
    """The kind of a checkpoint with this config.json; None where it is not quantized, or in a way not known here."""
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return KINDS.get(method) if isinstance(method, str) else None


def kind_for(fmt: Format) -> Kind:
    """The kind that holds a format; raises QuantlabError where none does."""
    for kind in KINDS.values():
        if kind.holds(fmt):
            return kind
    raise QuantlabError(
        f"{fmt.name} is in no checkpoint that a server loads from a folder; take an AWQ, GPTQ, int, fp8, fp4 or nf4 "
        "format, or write a GGUF file for llama.cpp"
    )
