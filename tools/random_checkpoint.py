"""Write a checkpoint with the shape of a known model and random weights: for speed and memory, never for quality.

    python tools/random_checkpoint.py llama-3.1-8b FORMAT FOLDER        FORMAT: bf16, int4_g128 or fp8_e4m3_channel

How fast a model runs and what it takes do not depend on what its weights say. The tokenizer is the story model's, its
vocabulary filled up to the model's. Random codes are written as they are, nothing is quantized: seconds on a GPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from quantlab.models.bundled import tiny_folder
from quantlab.plan.models import shape_of
from quantlab.plan.shapes import ModelShape

GROUP = 128
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"}
INPUTS = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "token", "dynamic": True}
GROUPS = {
    "bf16": None,
    "int4_g128": ("pack-quantized", {"weights": WEIGHTS}),
    "fp8_e4m3_channel": ("float-quantized", {"weights": FP8, "input_activations": INPUTS}),
}


def linear(name: str, rows: int, columns: int, fmt: str, device: str) -> dict[str, Tensor]:
    """The tensors of one matrix: random codes, and scales that keep the outputs of size one."""
    size = columns**-0.5
    if fmt == "bf16":
        return {f"{name}.weight": torch.empty(rows, columns, dtype=torch.bfloat16, device=device).normal_(std=size)}
    if fmt == "int4_g128":
        words = torch.randint(-(2**31), 2**31, (rows, columns // 8), dtype=torch.int32, device=device)
        scale = torch.full((rows, columns // GROUP), size / 4.6, dtype=torch.bfloat16, device=device)
        shape = torch.tensor([rows, columns])
        return {f"{name}.weight_packed": words, f"{name}.weight_scale": scale, f"{name}.weight_shape": shape}
    codes = torch.empty(rows, columns, device=device).normal_(std=100).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {f"{name}.weight": codes,
            f"{name}.weight_scale": torch.full((rows, 1), size / 100, dtype=torch.bfloat16, device=device)}  # fmt: skip


def layer(number: int, shape: ModelShape, fmt: str, device: str) -> dict[str, Tensor]:
    """All tensors of one block of a Llama."""
    at, hidden = f"model.layers.{number}", shape.hidden
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = {
        "self_attn.q_proj": (q, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q), "mlp.gate_proj": (shape.intermediate, hidden),
        "mlp.up_proj": (shape.intermediate, hidden), "mlp.down_proj": (hidden, shape.intermediate),
    }  # fmt: skip
    tensors = {}
    for name, (rows, columns) in matrices.items():
        tensors |= linear(f"{at}.{name}", rows, columns, fmt, device)
    for norm in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{at}.{norm}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
    return tensors


def config(shape: ModelShape, fmt: str) -> dict[str, object]:
    """config.json, as the format's own libraries write it."""
    found: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape.vocab,
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "dtype": "bfloat16",
    }  # fmt: skip
    if (kind := GROUPS[fmt]) is not None:
        name, group = kind
        found["quantization_config"] = {
            "quant_method": "compressed-tensors", "format": name, "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], **group}}, "ignore": ["lm_head"],
        }  # fmt: skip
    return found


def tokenizer(folder: Path, vocab: int) -> None:
    """The story model's, with words nobody says up to `vocab`."""
    said = json.loads((tiny_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    words = said["model"]["vocab"]
    words |= {f"\N{SYMBOL FOR NULL}{number}": number for number in range(len(words), vocab)}
    (folder / "tokenizer.json").write_text(json.dumps(said), encoding="utf-8")
    shutil.copy(tiny_folder() / "tokenizer_config.json", folder)


def write(model: str, fmt: str, folder: Path) -> None:
    """The whole folder, a file a layer, so that memory stays small."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = shape_of(model)
    folder.mkdir(parents=True)
    hidden = (shape.vocab, shape.hidden)
    rest = {"model.embed_tokens.weight": torch.randn(*hidden, device=device).bfloat16(),
            "lm_head.weight": (torch.randn(*hidden, device=device) * shape.hidden**-0.5).bfloat16(),
            "model.norm.weight": torch.ones(shape.hidden, dtype=torch.bfloat16)}  # fmt: skip
    where, total = {}, 0
    for number in range(shape.layers + 1):
        tensors = layer(number, shape, fmt, device) if number < shape.layers else rest
        file = f"model-{number + 1:05d}-of-{shape.layers + 1:05d}.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / file)
        where |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config(shape, fmt), indent=1), encoding="utf-8")
    tokenizer(folder, shape.vocab)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("fmt", choices=GROUPS)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    write(chosen.model, chosen.fmt, chosen.folder)
