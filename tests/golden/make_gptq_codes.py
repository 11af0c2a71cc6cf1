"""Record the codes that GPTQModel gives to a real layer of both models: tests/golden/gptq_codes.json.

GPTQModel needs an environment of its own (transformers 5.23, torch 2.13.0, then `pip install --no-deps gptqmodel`):

    OMP_NUM_THREADS=1 GPTQMODEL_CPU_WORKERS=2 PYTHONPATH=.:tests PYTHON tests/golden/make_gptq_codes.py

Its inputs are whole numbers whose sums of products are exact in float32, and there are 512 of them, so that its factor
2/512 moves the exponent of H and no other bit (and that of its square root likewise). Of each case: a digest of every
row of codes, and the first row. Scales stay float32 here; GPTQModel rounds them to float16 when it packs.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import torch
from layer_inputs import Layer, first_layer

DAMP = 0.01
CASES = {
    "tiny-4bit": ("tiny", {"bits": 4, "group": 128, "symmetric": True}),
    "tiny-4bit-static-act-order": (
        "tiny", {"bits": 4, "group": 128, "symmetric": True, "act_order": True, "static_groups": True},
    ),
    "tiny-3bit-asymmetric": ("tiny", {"bits": 3, "group": 128, "symmetric": False}),
    "smollm2-4bit-static-act-order": (
        "smollm2", {"bits": 4, "group": 64, "symmetric": True, "act_order": True, "static_groups": True},
    ),
    "smollm2-4bit-act-order": ("smollm2", {"bits": 4, "group": 64, "symmetric": True, "act_order": True}),
    "smollm2-3bit-asymmetric-static": (
        "smollm2", {"bits": 3, "group": 64, "symmetric": False, "static_groups": True},
    ),
}  # fmt: skip


def solve(layer: Layer, settings: dict) -> torch.Tensor:
    """GPTQModel's codes, uint8 [n, k]."""
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.quantization.gptq import GPTQ

    linear = torch.nn.Linear(layer.W.shape[1], layer.W.shape[0], bias=False)
    linear.weight.data.copy_(layer.W)
    config = QuantizeConfig(
        bits=settings["bits"], group_size=settings["group"], sym=settings["symmetric"], damp_percent=DAMP,
        desc_act=settings.get("act_order", False), static_groups=settings.get("static_groups", False),
        act_group_aware=False,
    )  # fmt: skip
    task = GPTQ(linear, config)
    task.quantizer.configure(perchannel=True)
    task.add_batch(layer.X[None], None)
    W_hat, scale, zero, g_idx, _, _, damp, _ = task.quantize(blocksize=settings.get("block", 128))
    assert damp == DAMP
    column = g_idx.long()
    codes = (W_hat / scale[:, column] + zero[:, column]).round()
    return codes.clamp(0, 2 ** settings["bits"] - 1).to(torch.uint8)


def main() -> None:
    """Write the file."""
    cases = []
    for name, (model, settings) in CASES.items():
        layer = first_layer(model)
        codes = solve(layer, settings)
        cases.append({
            "name": name,
            "model": model,
            "layer": "model.layers.0.self_attn.q_proj",
            "settings": {**settings, "damp": DAMP},
            "inputs_sha256": hashlib.sha256(layer.X.numpy().tobytes()).hexdigest(),
            "first_row": codes[0].tolist(),
            "rows": [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:8] for row in codes],
        })  # fmt: skip
    made = {"made_by": "tests/golden/make_gptq_codes.py", "gptqmodel": version("gptqmodel"), "torch": version("torch")}
    target = Path(__file__).with_name("gptq_codes.json")
    target.write_text(json.dumps({**made, "cases": cases}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
