"""AutoAWQ 0.2.9 on the CPU: its scale search, its clip search, its rounding."""

from __future__ import annotations

import argparse
from typing import Any

from common import Clock, arguments, finish, samples


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--duo", action="store_true", help="duo_scaling, AutoAWQ's default")
    parser.add_argument("--no-clip", action="store_true")
    parser.add_argument("--parallel", type=int, help="n_parallel_calib_samples")


def main() -> None:
    args, clock = arguments(_options), Clock()
    import torch
    from awq import AutoAWQForCausalLM
    from awq.quantize.quantizer import AwqQuantizer

    rounded: dict[str, Any] = {}

    class Recording(AwqQuantizer):  # type: ignore[misc]
        """Keeps the rounded weights; packing knows only 4 bits."""

        def _apply_quant(self, module: Any, named_linears: dict[str, Any]) -> None:
            number = next(i for i, layer in enumerate(self.modules) if layer is module)
            for name, linear in named_linears.items():
                W_hat = self.pseudo_quantize_tensor(linear.weight.data.half())[0]
                rounded[f"model.layers.{number}.{name}.weight"] = W_hat
                linear.weight.data = W_hat

    model = AutoAWQForCausalLM.from_pretrained(
        str(args.model), torch_dtype=getattr(torch, args.dtype), device_map="cpu", safetensors=True
    )
    if args.blocks:  # the inputs of a block do not depend on those after it
        model.model.model.layers = model.model.model.layers[: args.blocks]
    tokens = samples(args.tokens)
    clock.lap("load")
    model.quantize(
        None,
        quant_config={"zero_point": True, "q_group_size": args.group, "w_bit": args.bits, "version": "GEMM"},
        calib_data=tokens,
        duo_scaling=args.duo,
        apply_clip=not args.no_clip,
        n_parallel_calib_samples=args.parallel,
        max_calib_samples=len(tokens),
        max_calib_seq_len=len(tokens[0]),
        quantizer_cls=Recording,
    )
    clock.lap("quantize")
    finish(clock, args.out, {**dict(model.model.state_dict()), **rounded})


if __name__ == "__main__":
    main()
