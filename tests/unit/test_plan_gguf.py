"""The planner against llama.cpp: the type and the bytes of every tensor in the files that it really writes."""

import ctypes
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import gguf
import numpy as np
import pytest

from quantlab.checkpoints.gguf import write_gguf
from quantlab.checkpoints.gguf_families import gguf_name
from quantlab.plan.blocks import TensorSpec
from quantlab.plan.memory import weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.published import GGUF_FILES
from quantlab.plan.recipes import layout_of
from quantlab.plan.shapes import Experts, ModelShape

FILE_TYPES = {
    "q4_0": 2,
    "q8_0": 7,
    "q2_k": 10,
    "q3_k_m": 12,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_m": 17,
}  # enum llama_ftype


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return write_gguf(tiny_folder, tmp_path_factory.mktemp("gguf") / "full.gguf", dtype="f16")


@pytest.mark.parametrize("fmt", FILE_TYPES)
def test_every_tensor_has_the_planned_type_and_bytes(full: Path, fmt: str, llama_cpp: ModuleType) -> None:
    written = full.with_name(f"{fmt}.gguf")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[fmt], 2
    assert llama_cpp.llama_model_quantize(str(full).encode(), str(written).encode(), ctypes.byref(params)) == 0

    real = {t.name: (t.tensor_type.name.lower(), t.n_bytes) for t in gguf.GGUFReader(written).tensors}
    tiny, planned = shape_of("tiny"), {}
    for tensor in tiny.tensors():
        chosen = layout_of(tensor, tiny, fmt)
        columns = tensor.shape[-1]
        nbytes = chosen.matrix_bytes(tensor.weights // columns, columns)
        planned[gguf_name(tensor.name)] = (chosen.name.replace("fp32", "f32"), nbytes)
    assert planned == real
    assert weights_bytes("tiny", fmt) == sum(nbytes for _, nbytes in real.values())


@pytest.mark.parametrize(("model", "fmt"), GGUF_FILES)
def test_published_files_are_what_is_planned_and_a_tokenizer(model: str, fmt: str) -> None:
    beside = GGUF_FILES[model, fmt] - weights_bytes(model, fmt)
    assert 3.5e6 < beside < 8e6
    one_model = {GGUF_FILES[key] - weights_bytes(*key) for key in GGUF_FILES if key[0] == model}
    assert len(one_model) == 1  # the same settings and tokenizer in each: the tensors are exact to the byte


# ------------------------------------------------------------- families that quantlab does not convert: made-up files
SMALL = ModelShape("small", 8, 256, 512, 8, 2, 32, 64, 128)
MADE_UP = {
    "fused": ("phi3", replace(SMALL, fused=True)),
    "8 experts": ("llama", replace(SMALL, experts=Experts(8, 2, 256))),
    "4 experts": ("llama", replace(SMALL, experts=Experts(4, 2, 256))),
}
NAMES = {
    "qkv_proj": "attn_qkv", "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "gate_up_proj": "ffn_up", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
    "gate": "ffn_gate_inp", "embed_tokens": "token_embd", "lm_head": "output", "norm": "output_norm",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def made_up_file(path: Path, arch: str, shape: ModelShape) -> None:
    """A GGUF file with the tensors of this shape, full of random numbers."""
    writer, rng = gguf.GGUFWriter(path, arch), np.random.default_rng(0)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    writer.add_sliding_window(128)
    if shape.experts:
        writer.add_expert_count(shape.experts.count)
        writer.add_expert_used_count(shape.experts.per_token)
    for tensor in shape.tensors():
        size = tensor.shape if tensor.kind != "experts" else (tensor.copies, *tensor.shape)
        writer.add_tensor(name_in_file(tensor), rng.standard_normal(size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def name_in_file(tensor: TensorSpec) -> str:
    name = NAMES[tensor.role] + ("_exps" if tensor.kind == "experts" else "")
    return f"{name}.weight" if tensor.layer is None else f"blk.{tensor.layer}.{name}.weight"


@pytest.mark.parametrize("fmt", ["q2_k", "q3_k_m", "q4_0", "q4_k_s", "q4_k_m", "q5_k_m", "q8_0"])
@pytest.mark.parametrize("case", MADE_UP)
def test_fused_projections_and_experts_have_the_types_of_llama_cpp(
    case: str, fmt: str, tmp_path: Path, llama_cpp: ModuleType
) -> None:
    arch, shape = MADE_UP[case]
    full, written = tmp_path / "full.gguf", tmp_path / "quantized.gguf"
    made_up_file(full, arch, shape)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[fmt], 2
    assert llama_cpp.llama_model_quantize(str(full).encode(), str(written).encode(), ctypes.byref(params)) == 0
    real = {t.name: (t.tensor_type.name.lower(), t.n_bytes) for t in gguf.GGUFReader(written).tensors}
    planned = {}
    for tensor in shape.tensors():
        chosen, columns = layout_of(tensor, shape, fmt), tensor.shape[-1]
        nbytes = chosen.matrix_bytes(tensor.weights // columns, columns)
        planned[name_in_file(tensor)] = (chosen.name.replace("fp32", "f32"), nbytes)
    assert planned == real
    assert weights_bytes(shape, fmt) == sum(nbytes for _, nbytes in real.values())
