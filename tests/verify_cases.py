"""Real checkpoints of every kind for tests to break: one block of the bundled model, its weights as trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quantlab.checkpoints.fused import fused_absmax
from quantlab.checkpoints.manifest import NAME, write_manifest
from quantlab.checkpoints.verify import Verified, verify
from quantlab.checkpoints.write import write_checkpoint
from quantlab.core import QuantizedTensor
from quantlab.formats.catalog import quantize_tensor

LAYER = "model.layers.0.mlp.down_proj"
BF16 = {"scale_dtype": "bfloat16"}
# name -> format, its options
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "awq": ("awq_int4_g128", {}),
    "gptq": ("gptq_int4_g128", {}),
    "gptq-v2-asymmetric": ("gptq_int4_g128", {"symmetric": False, "version": 2}),
    "gptq-3bit": ("gptq_int3_g128", {}),
    "packed": ("int4_g128", BF16),
    "packed-asymmetric": ("int4_g128", {**BF16, "symmetric": False}),
    "packed-3bit": ("int3_g64", BF16),
    "int8": ("int8", BF16),
    "fp8-tensor": ("fp8_e4m3", {}),
    "fp8-row": ("fp8_e4m3_channel", {}),
    "fp8-square": ("fp8_e4m3_block128", {}),
    "mxfp4": ("mxfp4", {}),
    "nvfp4": ("nvfp4", {}),
    "nf4": ("nf4", {}),
    "nf4-double": ("nf4_dq", {}),
    "fp4": ("fp4", {}),
    "llm-int8": ("llm_int8", {}),
}
# where the numbers are that are not the codes themselves
SCALES = {
    "awq": ["scales"], "gptq": ["scales"], "gptq-v2-asymmetric": ["scales"], "gptq-3bit": ["scales"],
    "packed": ["weight_scale"], "packed-asymmetric": ["weight_scale"], "packed-3bit": ["weight_scale"],
    "int8": ["weight_scale"], "fp8-tensor": ["weight_scale"], "fp8-row": ["weight_scale"],
    "fp8-square": ["weight_scale"], "mxfp4": ["weight_scale"], "nvfp4": ["weight_scale", "weight_global_scale"],
    "nf4": ["weight.absmax"], "nf4-double": ["weight.nested_absmax"], "fp4": ["weight.absmax"], "llm-int8": ["SCB"],
}  # fmt: skip
CODES = {
    **dict.fromkeys(("awq", "gptq", "gptq-v2-asymmetric", "gptq-3bit"), "qweight"),
    **dict.fromkeys(("packed", "packed-asymmetric", "packed-3bit", "mxfp4", "nvfp4"), "weight_packed"),
    **dict.fromkeys(("int8", "fp8-tensor", "fp8-row", "fp8-square", "nf4", "nf4-double", "fp4", "llm-int8"), "weight"),
}
NIBBLES = ("gptq", "gptq-v2-asymmetric", "packed", "packed-asymmetric", "mxfp4", "nvfp4", "nf4", "nf4-double", "fp4")


def one_block(model: Path, out: Path) -> Path:
    """The model with its first block alone; everything in it is as it was."""
    out.mkdir()
    for path in model.glob("*.json"):
        shutil.copyfile(path, out / path.name)
    config = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": 1}
    (out / "config.json").write_text(json.dumps(config))
    tensors = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers." not in name or "layers.0." in name}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return out


def make(model: Path, out: Path, case: str, weights: Callable[[str, Tensor], Tensor] | None = None) -> Path:
    """A checkpoint of the model. weights: layer, its weights -> others to quantize instead."""
    fmt, options = CASES[case]
    tensors = load_file(model / "model.safetensors")
    matrices = {name.removesuffix(".weight"): W for name, W in tensors.items() if W.ndim == 2 and "layers." in name}
    if weights is not None:
        matrices = {name: weights(name, W) for name, W in matrices.items()}
    shared = fused_absmax(matrices) if fmt == "nvfp4" else {}

    def quantized(name: str, W: Tensor) -> QuantizedTensor:
        own = {"absmax": shared[name]} if name in shared else {}
        return quantize_tensor(W.half() if case == "awq" else W, fmt, **options, **own)

    return write_checkpoint(model, out, {name: quantized(name, W) for name, W in matrices.items()})


class Made:
    """Checkpoints of one block of a model, each made when it is first asked for."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.folder, self.block = folder, one_block(model, folder / "block")

    def __call__(self, case: str) -> Path:
        """The checkpoint itself: read only."""
        if not (self.folder / case).exists():
            make(self.block, self.folder / case, case)
        return self.folder / case

    def copy(self, case: str, out: Path) -> Path:
        """A copy to break."""
        return copy_of(self(case), out / case)


def copy_of(checkpoint: Path, out: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(checkpoint, out))


def change(folder: Path, part: str, how: Callable[[Tensor], Tensor | None], layer: str = LAYER) -> None:
    """Change a tensor of a layer (None: remove it), and write the manifest anew, so that only the change is wrong."""
    tensors = load_file(folder / "model.safetensors")
    name = f"{layer}.{part}" if layer else part
    made = how(tensors.pop(name))
    if made is not None:
        tensors[name] = made.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    renew(folder)


def change_all(folder: Path, part: str, how: Callable[[Tensor], Tensor]) -> None:
    """Change a tensor of every layer."""
    tensors = load_file(folder / "model.safetensors")
    tensors |= {name: how(value).contiguous() for name, value in tensors.items() if name.endswith(f"_proj.{part}")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    renew(folder)


def edit(folder: Path, name: str, how: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads((folder / name).read_text())
    how(content)
    (folder / name).write_text(json.dumps(content))
    renew(folder)


def renew(folder: Path) -> None:
    """Hash everything again."""
    if (folder / NAME).exists():
        write_manifest(folder)


def put(index: tuple[int, ...], value: float) -> Callable[[Tensor], Tensor]:
    """Set one number of a tensor."""

    def do(tensor: Tensor) -> Tensor:
        changed = tensor.float() if tensor.dtype == torch.float8_e4m3fn else tensor.clone()
        changed[index if tensor.ndim == len(index) else (0,) * tensor.ndim] = value
        return changed.to(tensor.dtype)

    return do


def swap_nibbles(words: Tensor) -> Tensor:
    """Exchange the two nibbles of every byte."""
    octets = words.contiguous().view(torch.uint8)
    return ((octets >> 4) | (octets << 4)).view(words.dtype)


def must_find(folder: Path, family: str, *words: str, quick: bool = False) -> Verified:
    """The first fault is of this family, and says all this."""
    found = verify(folder, quick=quick)
    first = next((check for check in found.checks if check.passed is False), None)
    assert first is not None, found.to_json()
    assert first.name == family, found.to_json()
    for word in words:
        assert word in first.what, (word, first.what)
    return found


def faults_of_weights(folder: Path) -> list[str]:
    """What is wrong with a folder that a library saved without its tokenizer, beside that."""
    return [f"{c.name}: {c.what}" for c in verify(folder).checks if c.passed is False and c.name != "tokenizer"]
