"""GPTQModel 7.7.0 on the CPU: GPTQ with its group-aware order of columns, its default.

Set GPTQMODEL_CPU_WORKERS to the number of cores where there are few, or it fails when it is imported.
"""

from __future__ import annotations

import os

from common import Clock, arguments, finish, samples

os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(os.cpu_count() or 1))


def main() -> None:
    args, clock = arguments(), Clock()
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(
        bits=args.bits, group_size=args.group, sym=False, device="cpu", offload_to_disk=False, format="gptq_v2"
    )
    model = GPTQModel.load(str(args.model), config, dtype=getattr(torch, args.dtype))
    tokens = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in samples(args.tokens)]
    clock.lap("load")
    model.quantize(tokens, batch_size=1, calibration_concat_size=None)
    clock.lap("quantize")
    plain = {name: tensor for name, tensor in model.model.state_dict().items() if name.endswith(("weight", "bias"))}
    for name, module in model.model.named_modules():
        if hasattr(module, "dequantize_weight"):
            plain[f"{name}.weight"] = module.dequantize_weight().T
    finish(clock, args.out, plain)


if __name__ == "__main__":
    main()
