"""Checks of lesson 3 that rest on what a library or a server says of itself (F6 to F9), each with where it was read.

What can be asked of an installed library is asked of it now; the rest is cited by version, file or page in the claim's
inputs. Change what was read, and the verdict follows.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantlab.formats.catalog import get
from quantlab.lesson.ledger.verdicts import Finding, NotHereError, Part
from quantlab.lesson.lesson2.own_matrix import layer_weights
from quantlab.lesson.lesson3.libraries import quiet
from quantlab.plan.support import support

NO_AUTOAWQ = "autoawq is not installed; pip install 'quantlab[quantizers]'"


def f6(
    zero_point: bool, q_group_size: int, w_bit: int, layer: str, engines: Mapping[str, Mapping[str, Any]], **rest: Any
) -> Finding:
    """Pack a layer with AutoAWQ's own class, read it back, and look at who reads such files."""
    settings = {"zero_point": zero_point, "q_group_size": q_group_size, "w_bit": w_bit, "version": rest["version"]}
    same = autoawq_config(settings)
    written = _packed(layer, q_group_size, w_bit)
    parts = [
        Part(f"{layer}, packed by AutoAWQ's WQLinear_GEMM, read by quantlab: {written:.0%} of the weights are the same",
             written == 1, essential=True),
        Part(f"config.json says quant_method {same['quant_method']}, bits {same['bits']}, group_size "
             f"{same['group_size']}, version {same['version']}", same["quant_method"] == "awq"),
    ]  # fmt: skip
    for engine, read in engines.items():
        row = support(engine, "AWQ")
        direct = row is not None and bool(read["as_it_is"])
        parts.append(Part(f"{engine} ({read['read']}): {read['how']}", direct))
    figure = "; ".join(f"{engine}: {read['how']}" for engine, read in engines.items())
    return Finding(tuple(parts), figure, f"AutoAWQ {version('autoawq')} on this machine; lab 3 makes and serves one")


@lru_cache(maxsize=4)
def _packed(layer: str, group: int, bits: int) -> float:
    """The share of a layer's weights that AutoAWQ's packing and our reading of it leave equal."""
    fmt = get(f"awq_int{bits}_g{group}")
    W = layer_weights(layer)[:64]
    p = fmt.grid.fit(W)
    W_hat = fmt.grid.decode(fmt.grid.encode(W, p), p)
    with quiet():
        from awq.modules.linear import WQLinear_GEMM

        linear = nn.Linear(W.shape[1], W.shape[0], bias=False)
        linear.weight.data.copy_(W_hat)
        scales, zeros = (p[name].T.contiguous() for name in ("scale", "zero"))
        made = WQLinear_GEMM.from_linear(linear.half(), bits, group, False, scales.half(), zeros)
    parts = {name: getattr(made, name) for name in ("qweight", "qzeros", "scales")}
    q, read = fmt.packing.unpack(parts, (W.shape[0], W.shape[1]))
    back: torch.Tensor = fmt.grid.decode(q, read)
    return float((back == W_hat).float().mean())


def autoawq_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What AutoAWQ writes as `quantization_config` for these settings; raises NotHereError without it."""
    if importlib.util.find_spec("awq") is None:
        raise NotHereError(NO_AUTOAWQ)
    with quiet():
        from awq.models._config import AwqConfig

        found: dict[str, Any] = AwqConfig.from_dict(dict(settings)).to_transformers_dict()
    return found


def f7(noticed: str, says_archived: str, read: str, successor: str) -> Finding:
    """AutoAWQ's own farewell, in the installed package, and when others had read it.

    When the repository itself was made read-only is not cited here: that page was not read.
    """
    spec = importlib.util.find_spec("awq")
    if spec is None or spec.origin is None:
        raise NotHereError(NO_AUTOAWQ)
    farewell = Path(spec.origin).read_text(encoding="utf-8")
    says = [line.strip("- \n") for line in farewell.splitlines() if line.startswith("- AutoAWQ")]
    parts = (
        Part(f"AutoAWQ {version('autoawq')} says: {says[0]}", "deprecated" in says[0]),
        Part(f"and: {says[1]}", successor in says[1]),
        Part(f"its notice was known by {noticed} ({read})", noticed[: len(says_archived)] <= says_archived),
    )
    figure = f"{says[0]} {says[1]}; known by {noticed}; llm-compressor {version('llmcompressor')} is maintained"
    return Finding(parts, figure, "The package's own message; the maintained path is this course's default")


def f8(vllm: str, file: str, without_flag_reads: str, other_flag: str) -> Finding:
    """What vLLM does with a quantized checkpoint when no flag is given, as read in its source; and what ours says."""
    said = autoawq_config({"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"})
    read = without_flag_reads or "nothing: the weights count as bf16"
    parts = (
        Part(f"vLLM {vllm}, {file}: without the flag the method is read from {read}", not without_flag_reads, True),
        Part(f"config.json of an AWQ checkpoint: quantization_config.quant_method = {json.dumps(said['quant_method'])}",
             not said["quant_method"]),
    )  # fmt: skip
    figure = f"vLLM {vllm} reads {read}; another flag {other_flag}; lab 3 serves one without the flag"
    return Finding(parts, figure, "Cited from vLLM's source")


def f9(sglang: Mapping[str, Any], tensorrt_llm: Mapping[str, Any]) -> Finding:
    """How two other servers come to an AWQ model."""
    parts = (
        Part(f"SGLang ({sglang['read']}): {sglang['how']}", bool(sglang["detects"])),
        Part(f"TensorRT-LLM ({tensorrt_llm['read']}): {tensorrt_llm['how']}", bool(tensorrt_llm["modelopt"])),
        Part(f"another way into TensorRT-LLM: {tensorrt_llm['also'] or 'none'}", not tensorrt_llm["also"]),
    )
    return Finding(parts, f"SGLang: {sglang['how']}; TensorRT-LLM: {tensorrt_llm['how']}", "Cited documentation")
