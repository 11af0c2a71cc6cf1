"""llm-compressor 0.14.0.1 on the CPU: GPTQ with static act order, its default."""

from __future__ import annotations

from typing import Any

from common import Clock, arguments, finish, samples


def main() -> None:
    args, clock = arguments(), Clock()
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    tokens = samples(args.tokens)
    data = Dataset.from_dict({"input_ids": tokens, "attention_mask": [[1] * len(row) for row in tokens]})
    weights = QuantizationArgs(
        num_bits=args.bits, type="int", symmetric=False, strategy="group", group_size=args.group, actorder="static"
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    clock.lap("load")
    oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(args.model),
        dataset=data,
        recipe=GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"]),
        max_seq_length=len(tokens[0]),
        num_calibration_samples=len(tokens),
        shuffle_calibration_samples=False,
    )
    clock.lap("quantize")
    plain = {
        name: tensor for name, tensor in model.state_dict().items() if not name.endswith(("_scale", "_zero_point"))
    }
    finish(clock, args.out, plain)


if __name__ == "__main__":
    main()
