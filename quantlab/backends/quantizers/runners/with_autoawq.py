"""AutoAWQ 0.2.9: its scale search, its clip search, its rounding, its GEMM checkpoint.

AutoAWQ is archived; many checkpoints called -AWQ come from it. What is not its default here, and why:

- `trust_remote_code` is off; the library's own default is on.
- On a CPU `duo_scaling` is off. The search for scales keeps a copy of the weights that it makes with `.cpu()`, which on
  a CPU copies nothing, and then multiplies the weights in place: with duo the model comes out ruined.
- On a CPU it computes in float32; what is not quantized is stored in the model's own type all the same.
- Windows of unequal length: the library joins all of them and drops what does not fill the last. That is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Say = Callable[[str, float | None], None]
BATCH = 8  # windows that run at once: what is computed is the same, the memory is not


def quantize(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Write an AutoAWQ checkpoint to order["out"]."""
    import torch
    from awq import AutoAWQForCausalLM
    from awq.quantize.quantizer import AwqQuantizer

    class Telling(AwqQuantizer):  # type: ignore[misc]
        """Says which block it is at."""

        def _get_input_feat(self, layer: Any, named_linears: dict[str, Any]) -> Any:
            index = next(i for i, module in enumerate(self.modules) if module is layer)
            say(f"block {index + 1} of {len(self.modules)}", index / len(self.modules))
            return super()._get_input_feat(layer, named_linears)

    on_gpu, dtype = torch.cuda.is_available(), getattr(torch, order["dtype"])
    model = AutoAWQForCausalLM.from_pretrained(
        order["model"], torch_dtype=dtype if on_gpu else torch.float32, trust_remote_code=False,
        device_map="cuda" if on_gpu else "cpu", safetensors=True,
    )  # fmt: skip
    windows = order["windows"]
    longest = max(map(len, windows))
    settings = {"zero_point": True, "q_group_size": order["group"], "w_bit": order["bits"], "version": "GEMM"}
    model.quantize(
        None, quant_config=settings, calib_data=windows, duo_scaling=on_gpu, max_calib_samples=len(windows),
        max_calib_seq_len=longest, n_parallel_calib_samples=BATCH, quantizer_cls=Telling, apply_clip=order["clip"],
    )  # fmt: skip
    say("saving", 1.0)
    model.model.to("cpu")
    for parameter in model.model.parameters():  # its scales are buffers and stay as they are
        parameter.data = parameter.data.to(dtype)
    model.model.config.dtype = dtype
    model.save_quantized(order["out"], safetensors=True)
    lost = sum(map(len, windows)) % longest
    return {
        "packages": ["autoawq", "torch", "transformers"],
        "device": "cuda" if on_gpu else "cpu",
        "settings": settings | {"duo_scaling": on_gpu, "apply_clip": order["clip"]},
        "notes": [f"AutoAWQ left out {lost} tokens, which do not fill a window of {longest}"] if lost else [],
    }
