"""Small checkpoints and mutations of their files, for the property tests and for tools/fuzz_verify.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.verify import Verified, verify
from quantlab.checkpoints.write import write_checkpoint
from quantlab.errors import QuantlabError
from quantlab.formats.catalog import quantize_tensor
from quantlab.formats.gguf_head import read_head

Mutation = tuple[str, float, bytes]  # what, where (a share of the bytes that are aimed at), with what
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "hidden_act": "silu",
    "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_SHAPES = {
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64), "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128),
}  # fmt: skip
FORMATS = {
    "awq": ("awq_int4_g32", {}), "gptq": ("gptq_int4_g32", {}), "packed": ("int4_g32", {"scale_dtype": "bfloat16"}),
    "fp8": ("fp8_e4m3_channel", {}), "mxfp4": ("mxfp4", {}), "nf4": ("nf4_dq", {}), "llm-int8": ("llm_int8", {}),
}  # fmt: skip


def small_model(out: Path) -> Path:
    """A model of one block whose matrices are tiny, and a tokenizer of 96 tokens."""
    out.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"model.layers.0.{name}.weight": torch.randn(shape, generator=generator) for name, shape in _SHAPES.items()
    }
    tensors["model.embed_tokens.weight"] = torch.randn(96, 64, generator=generator)
    for name in ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"):
        tensors[f"{name}.weight"] = torch.ones(64)
    save_file({name: t.bfloat16() for name, t in tensors.items()}, out / "model.safetensors", metadata={"format": "pt"})
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "normalizer": None, "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {chr(33 + i): i for i in range(90)}, "merges": []},
        "added_tokens": [{"id": 90 + i, "content": f"<|{i}|>", "special": True} for i in range(6)],
    }  # fmt: skip
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "!", "eos_token": '"'}
    for name, content in (
        ("config.json", CONFIG), ("tokenizer.json", tokenizer), ("generation_config.json", {"eos_token_id": [1]}),
        ("tokenizer_config.json", {**settings, "chat_template": template}),
    ):  # fmt: skip
        (out / name).write_text(json.dumps(content))
    return out


def small_checkpoint(model: Path, out: Path, kind: str, shard_bytes: int = 10**9) -> Path:
    """The model in one of FORMATS."""
    fmt, options = FORMATS[kind]
    tensors = load_file(model / "model.safetensors")
    layers = {name: tensors[f"model.layers.0.{name}.weight"] for name in _SHAPES}
    quantized = {f"model.layers.0.{name}": quantize_tensor(W.float(), fmt, **options) for name, W in layers.items()}
    return write_checkpoint(model, out, quantized, shard_bytes=shard_bytes)


def small_gguf(model: Path, out: Path) -> Path:
    """The model as a GGUF file, its matrices in Q4_0."""
    tensors = load_file(model / "model.safetensors")
    quantized = {
        f"model.layers.0.{name}": quantize_tensor(tensors[f"model.layers.0.{name}.weight"].float(), "q4_0")
        for name in _SHAPES
    }
    return write_gguf(model, out, quantized=quantized)


def mutated(raw: bytes, mutations: Sequence[Mutation], end: int | None = None) -> bytes:
    """Bytes flipped, cut out and put in, within the first `end`."""
    changed = bytearray(raw)
    for what, where, content in mutations:
        at = int(where * min(end or len(changed), len(changed)))
        if what == "flip":
            for i, byte in enumerate(content, start=at):
                if i < len(changed):
                    changed[i] ^= byte
        elif what == "cut":
            del changed[at : at + 1 + int.from_bytes(content[:2], "little")]
        elif what == "end":
            del changed[at:]
        else:
            changed[at:at] = content
    return bytes(changed)


def header_end(path: Path) -> int:
    """How many bytes of a file come before its weights; all of them where it has none."""
    if path.suffix == ".safetensors":
        return 8 + int.from_bytes(path.read_bytes()[:8], "little")
    return read_head(path).data_start if path.suffix == ".gguf" else path.stat().st_size


def looked_at(path: Path) -> Verified | None:
    """`verify` in full; None where it refuses in one sentence. Anything else is a bug."""
    try:
        found = verify(path)
    except QuantlabError:
        return None
    assert found.to_json()
    assert all("\n" not in check.what for check in found.checks)
    return found
