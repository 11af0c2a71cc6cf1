"""Make gptq_pack.json: what GPTQModel's quantizer and packer make of the layers in gptq_cases.py.

GPTQModel asks for another torch and another transformers than this project, so it is run once, elsewhere:

    python -m venv gptqenv && . gptqenv/bin/activate
    pip install torch==2.13.0 transformers==5.23.0 optimum==2.3.0 && pip install --no-deps gptqmodel==7.7.0
    GPTQMODEL_CPU_WORKERS=2 CUDA_VISIBLE_DEVICES= python tests/golden/make_gptq_pack.py

(plus what GPTQModel then misses by name.) The quantizer is `gptqmodel.quantization.quantizer`, one group at a time; the
packer `TorchLinear.pack_original`, checked against `pack_block`; version 1 is its own conversion.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import torch
from gptq_cases import CASES, Case, K, N, digest, g_idx_of, to_text, weights
from gptqmodel.nn_modules.qlinear.torch import TorchLinear
from gptqmodel.quantization import QuantizeConfig
from gptqmodel.quantization.quantizer import Quantizer, quantize
from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module
from torch import Tensor, nn


def find_params(W: Tensor, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and zero [n, k/g] in float32, and the weights they round to [n, k]: GPTQModel's round to nearest."""
    g_idx = g_idx_of(case)
    scales, zeros, W_hat = [], [], torch.empty_like(W)
    for group in range(K // case.group):
        columns = (g_idx == group).nonzero().flatten()
        quantizer = Quantizer(QuantizeConfig(bits=case.bits, group_size=case.group, sym=case.symmetric))
        quantizer.configure(perchannel=True)
        quantizer.find_params(W[:, columns], weight=True)
        W_hat[:, columns] = quantize(W[:, columns], quantizer.scale, quantizer.zero, 2**case.bits - 1, False)
        scales.append(quantizer.scale)
        zeros.append(quantizer.zero)
    return torch.cat(scales, 1), torch.cat(zeros, 1), W_hat


def packed(case: Case, scale: Tensor, zero: Tensor, W_hat: Tensor, how: str) -> dict[str, Tensor]:
    """qweight, qzeros, scales and g_idx as a checkpoint of this version holds them."""
    linear = nn.Linear(K, N, bias=False)
    linear.weight.data = W_hat.clone()
    config = QuantizeConfig(bits=case.bits, group_size=case.group, sym=case.symmetric, desc_act=case.desc_act)
    module = TorchLinear(
        bits=case.bits,
        group_size=case.group,
        desc_act=case.desc_act,
        sym=case.symmetric,
        in_features=K,
        out_features=N,
        bias=False,
        pack_dtype=torch.int32,
        register_buffers=False,
    )
    getattr(module, how)(linear, scale.clone(), zero.clone(), g_idx_of(case))
    if case.version == 1:
        convert_gptq_v2_to_v1_format_module(module, config)
    return {name: getattr(module, name).clone() for name in ("qweight", "qzeros", "scales", "g_idx")}


def main() -> None:
    golden: dict[str, object] = {}
    for case in CASES:
        found = {}
        for name, W in weights(case.bits).items():
            scale, zero, W_hat = find_params(W, case)
            parts = packed(case, scale, zero, W_hat, "pack_original")
            for part, again in packed(case, scale, zero, W_hat, "pack_block").items():
                assert torch.equal(parts[part], again), (case, name, part)
            found[name] = {"scale": digest(scale), "zero": digest(zero), "W_hat": digest(W_hat + 0.0)} | {
                part: to_text(value) if name == "random" and part == "qzeros" else digest(value)
                for part, value in parts.items()
            }
        golden[case.name] = found
    made_by = {"script": Path(__file__).name, **{name: version(name) for name in ("gptqmodel", "torch")}}
    text = json.dumps({"made by": made_by, "cases": golden}, indent=0, sort_keys=True)
    (Path(__file__).parent / "gptq_pack.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
