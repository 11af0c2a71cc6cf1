"""What lab 2 needs beside the library: our blocks against llama.cpp's, and a story from rounded weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from quantlab.core import QuantizedTensor
from quantlab.models.load import LoadedModel


def same_blocks(loaded: LoadedModel, folder: Path, fmt: str) -> str:
    """Quantize a model with llama.cpp and with our code; how many layers are equal, byte for byte.

    Only layers that llama.cpp itself puts in `fmt` count: for some it takes another type.
    """
    from gguf import GGUFReader

    from quantlab.backends.llama_cpp import quantize_gguf
    from quantlab.checkpoints.gguf import write_gguf
    from quantlab.formats.catalog import quantize_tensor
    from quantlab.models.walk import linear_layers

    ours, base, theirs = (folder / f"{name}.gguf" for name in (fmt, "bf16", f"{fmt}-llama.cpp"))
    if not ours.exists():
        layers = {name: quantize_tensor(layer.weight.detach(), fmt) for name, layer in linear_layers(loaded.model)}
        write_gguf(loaded.source.folder, ours, quantized=layers)
    if not theirs.exists():
        quantize_gguf(write_gguf(loaded.source.folder, base), theirs, fmt)
        base.unlink()
    mine, its = ({t.name: t for t in GGUFReader(path).tensors} for path in (ours, theirs))
    shared = [name for name in its if its[name].tensor_type == mine[name].tensor_type and its[name].n_elements > 10**4]
    equal = sum(mine[name].data.tobytes() == its[name].data.tobytes() for name in shared)
    return f"{equal} of {len(shared)} layers in {fmt} are llama.cpp's own, byte for byte"


def tell(loaded: LoadedModel, weights: Mapping[str, QuantizedTensor], start: str, tokens: int) -> str:
    """Continue a text with the most likely token each time, with the weights of these layers replaced."""
    from quantlab.models.walk import replace_weights

    before = replace_weights(loaded.model, {name: Q.dequantize() for name, Q in weights.items()})
    try:
        ids = loaded.tokenizer(start, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            out = loaded.model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
            )
        return " ".join(str(loaded.tokenizer.decode(out[0], skip_special_tokens=True)).split())
    finally:
        replace_weights(loaded.model, before)
