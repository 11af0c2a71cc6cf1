"""GPTQModel 7.7: GPTQ and AWQ, the successor of AutoGPTQ and AutoAWQ, in its own environment.

GPTQ here is with the library's defaults: dampening 0.05, columns in the group-aware order ("act_group_aware"), which
needs no g_idx. On a CPU it runs in float32. Asymmetric grids are stored in version 2 of the format, where a zero point
of 0 has its place.

Set GPTQMODEL_CPU_WORKERS where there are few cores, or the library fails when it is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

Say = Callable[[str, float | None], None]


def quantize(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Write a GPTQ or AWQ checkpoint to order["out"]."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(order["threads"]))
    import torch
    from gptqmodel import GPTQModel
    from gptqmodel.quantization.config import AWQConfig, GPTQConfig

    on_gpu = torch.cuda.is_available()
    shared: dict[str, Any] = {
        "bits": order["bits"], "group_size": order["group"], "sym": order["symmetric"],
        "dynamic": {f"-:^{re.escape(name)}$": {} for name in order["keep"]} or None,
    }  # fmt: skip
    here = {"device": "cuda:0" if on_gpu else "cpu", "offload_to_disk": False}
    if order["method"] == "awq":
        config: Any = AWQConfig(format="gemm", **shared, **here)
    else:
        config = GPTQConfig(format="gptq" if order["symmetric"] else "gptq_v2", **shared, **here)
    own = getattr(torch, order["dtype"])
    exact = order["method"] == "gptq" and not on_gpu  # its AWQ takes 16-bit models only
    model = GPTQModel.load(order["model"], config, dtype=torch.float32 if exact else own)
    count = len(model.model.get_decoder().layers)

    def told(layer_idx: int, submodule_finalized: bool) -> None:
        if not submodule_finalized:
            say(f"block {layer_idx + 1} of {count}", (layer_idx + 1) / count)

    model.layer_callback = told
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in order["windows"]]
    say(f"block 1 of {count}", 0.0)
    model.quantize(rows, batch_size=1, calibration_concat_size=None)
    say("saving", 1.0)
    for parameter in model.model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(own)
    model.model.config.dtype = own
    model.save(order["out"])
    return {
        "packages": ["gptqmodel", "torch", "transformers", "optimum"],
        "device": "cuda" if on_gpu else "cpu",
        "settings": shared | {"format": str(config.format.value), "dynamic": list(shared["dynamic"] or ())},
        "notes": [],
    }
