"""Put what was learned into the weights: one model again, of the original's shape and size.

The adapters were trained in front of W_nf4. Three ways to make one matrix of the two:

    exact    W_nf4 + delta             what was trained, to the last bit; but its bytes are those of 16-bit weights
    bf16     W + delta                 the original weights, not their NF4 copy; then rounded to the checkpoint's type
    nf4      NF4(W_nf4 + delta)        what peft's `merge` makes of a model that is loaded in 4 bits

The third rounds a second time: the weights that rested lie on NF4's levels, and rounding takes a small delta back to
them (`kept_by_nf4` says how much of it). The second is the way to deploy. The adapters never saw W itself, yet W is
nearer to what W_nf4 stands for than any other matrix; and a format that comes afterwards (AWQ, GPTQ, GGUF) rounds once,
not twice. Which is better here is not argued but measured (quantlab/finetune/stages).

Reference: peft 0.21, tuners/lora/bnb.py (`Linear4bit.merge`) and tuners/lora/layer.py (`Linear.merge`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from quantlab.atomic import new_folder, require_space
from quantlab.checkpoints.write import BESIDE
from quantlab.errors import QuantlabError, unknown
from quantlab.finetune.qlora import Adapter, Tuned
from quantlab.formats.catalog import FORMATS
from quantlab.models.folder import INDEX, examine
from quantlab.models.walk import linear_layers

WAYS = ("exact", "bf16", "nf4")
NF4 = FORMATS["nf4_dq"]  # what the weights of `Tuned` rested in, bit for bit


def merged_weights(tuned: Tuned, model: nn.Module, way: str = "bf16") -> dict[str, Tensor]:
    """Parameter name -> the merged weights [n, k], float32, of each layer that has an adapter.

    model: the original, as `quantlab.load` gives it. way: one of WAYS. "bf16" is rounded to bfloat16 as in a file.
    """
    if way not in WAYS:
        raise unknown("way to merge", way, WAYS)
    layers = {name: layer.weight.detach() for name, layer in linear_layers(model) if name in tuned.adapters}
    return {f"{name}.weight": _merged(W, tuned, tuned.adapters[name], way) for name, W in layers.items()}


def _merged(W: Tensor, tuned: Tuned, adapter: Adapter, way: str) -> Tensor:
    if way == "bf16":
        return (W + adapter.delta).bfloat16().float()
    rested = W if tuned.settings.base == "bf16" else NF4.quantize(W).dequantize()
    whole = rested + adapter.delta
    return whole if way == "exact" else NF4.quantize(whole).dequantize()


def kept_by_nf4(tuned: Tuned, model: nn.Module) -> dict[str, float]:
    """The share of what was learned that is left when W + delta is rounded to NF4, for two W: "rested" and "original".

    The component of the change along delta, NF4(W + delta) - NF4(W), over all weights that have an adapter: 1 where
    rounding blurs delta but keeps it, 0 where it undoes it. The weights that "rested" in NF4 lie on its levels, so that
    a small delta is rounded away; the "original" ones lie anywhere between, and it tips as many of them as it should.
    """
    along, whole = dict.fromkeys(("rested", "original"), 0.0), 0.0
    for name, layer in linear_layers(model):
        if name not in tuned.adapters:
            continue
        delta, W = tuned.adapters[name].delta, layer.weight.detach()
        rested = NF4.quantize(W).dequantize()
        whole += delta.square().sum().item()
        for of, before in (("rested", rested), ("original", W)):
            change = NF4.quantize(before + delta).dequantize() - NF4.quantize(before).dequantize()
            along[of] += (change * delta).sum().item()
    return {of: share / whole for of, share in along.items()}


def save_merged(tuned: Tuned, out: Path) -> Path:
    """Write the fine-tuned model to the new folder `out`, whole or not at all: the way "bf16".

    Every tensor keeps its name, its shape and its type, so config.json, tokenizer and the index of shards stay those of
    the original, one shard is in memory at a time, and whatever quantizes or serves the original takes this one.
    """
    checkpoint = examine(tuned.source.folder)
    left = {f"{name}.weight": adapter for name, adapter in tuned.adapters.items()}
    if absent := sorted(left.keys() - checkpoint.tensors.keys()):
        raise QuantlabError(
            f"{tuned.source.folder} holds no tensor {absent[0]}, which was fine-tuned; merge into the same model"
        )
    require_space(out.parent, checkpoint.nbytes + 2**20, f"the checkpoint {out.name}")
    with new_folder(out) as folder:
        for path in {
            path
            for pattern in ("config.json", INDEX, *BESIDE)
            for path in tuned.source.folder.glob(pattern)
            if path.is_file()
        }:
            shutil.copyfile(path, folder / path.name)
        for shard in checkpoint.shards:
            save_file(_shard(shard, left), folder / shard.name, metadata={"format": "pt"})
    return out


def _shard(path: Path, adapters: dict[str, Adapter]) -> dict[str, Tensor]:
    """The tensors of one file, with what was learned added to those that learned."""
    found: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (not a dict)
            W = tensors.get_tensor(name)
            found[name] = (W.float() + adapters[name].delta).to(W.dtype) if name in adapters else W
    return found
