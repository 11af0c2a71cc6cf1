"""Loading: the right numbers, the right places, and silence. (What goes wrong: test_bad_input_*.py.)"""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest
import torch
from bad_models import copy_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from quantlab.errors import QuantlabError, UsageError
from quantlab.models.architecture import known_classes
from quantlab.models.folder import examine
from quantlab.models.load import ModelSource, load, resolve
from quantlab.models.walk import Parameters, linear_layers, parameters, replace_weights
from quantlab.models.weights_file import BITS, read_header
from quantlab.plan.models import shape_of


def test_tiny_is_the_bundled_folder(tiny_folder):
    assert resolve("tiny") == ModelSource(tiny_folder, "tiny", None, False)
    assert resolve(str(tiny_folder)).name == tiny_folder.name


def test_the_weights_are_the_file_s_bfloat16_held_in_float32(tiny, tiny_folder):
    stored = load_file(tiny_folder / "model.safetensors")
    loaded = dict(tiny.model.named_parameters())
    assert loaded.keys() == stored.keys()
    for name, weight in loaded.items():
        assert weight.dtype == torch.float32
        assert weight.equal(stored[name].float()), name
        assert not weight.requires_grad
    assert not tiny.model.training


def test_other_precisions_are_rounded_to_bfloat16(tiny, tiny_folder, tmp_path):
    folder = copy_of(tiny_folder, tmp_path / "model")
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    fine = {name: W.float() * (1 + 1e-4 * torch.rand(W.shape)) for name, W in stored.items()}
    save_file(fine, folder / "model.safetensors", metadata={"format": "pt"})
    for name, weight in load(str(folder)).model.named_parameters():
        assert weight.equal(fine[name].bfloat16().float()), name


def test_it_speaks(tiny):
    ids = tiny.tokenizer("Once upon a time", return_tensors="pt")
    story = tiny.model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert story.shape[1] > ids.input_ids.shape[1]
    assert tiny.tokenizer.decode(story[0]).startswith("Once upon a time")


def test_loading_is_silent_and_leaves_the_library_s_settings_alone(tmp_path, tiny_folder):
    code = (
        "from transformers.utils import logging\n"
        "before = logging.get_verbosity(), logging.is_progress_bar_enabled()\n"
        "from quantlab.models.load import load\n"
        "load('tiny')\n"
        "assert before == (logging.get_verbosity(), logging.is_progress_bar_enabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_linear_layers_are_all_but_embedding_and_head(tiny):
    names = [name for name, _ in linear_layers(tiny.model)]
    config = tiny.config
    assert len(names) == 7 * config.num_hidden_layers
    assert not any("lm_head" in name or "embed" in name for name in names)
    assert names[0] == "model.layers.0.self_attn.q_proj"


def test_parameters_agree_with_the_planner_and_the_file(tiny, tiny_folder):
    counted, shape = parameters(tiny.model), shape_of("tiny")
    assert counted.total == shape.parameters == examine(tiny_folder).parameters
    assert counted.head == 0  # tied: the embedding, counted once
    assert counted.linear == sum(layer.weight.numel() for _, layer in linear_layers(tiny.model))


def test_an_untied_head_is_counted_apart():
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body, self.head = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 5)

        def get_output_embeddings(self) -> torch.nn.Linear:
            return self.head

    assert parameters(Model()) == Parameters(linear=16, embedding=20, head=20, other=9)


def test_replaced_weights_are_used_and_can_be_put_back(tiny):
    ids = tiny.tokenizer("The fox", return_tensors="pt")
    before = tiny.model(**ids).logits
    kept = replace_weights(tiny.model, {name: torch.zeros_like(W.weight) for name, W in linear_layers(tiny.model)})
    assert not torch.equal(tiny.model(**ids).logits, before)
    replace_weights(tiny.model, kept)
    assert torch.equal(tiny.model(**ids).logits, before)


def test_a_wrong_replacement_changes_nothing(tiny):
    name, layer = next(linear_layers(tiny.model))
    before = layer.weight.clone()
    with pytest.raises(UsageError, match=r"unknown linear layer .* did you mean 'model\.layers\.0\.self_attn\.q_proj'"):
        replace_weights(tiny.model, {name: torch.zeros_like(before), "model.layers.0.self_attn.q_pro": before})
    with pytest.raises(ValueError, match=r"has weights of shape .* the replacement has \[2, 2\]"):
        replace_weights(tiny.model, {name: torch.zeros(2, 2)})
    assert layer.weight.equal(before)


def test_the_header_is_what_the_library_reads(tiny_folder):
    stored = load_file(tiny_folder / "model.safetensors")
    header = read_header(tiny_folder / "model.safetensors")
    assert {name: entry.shape for name, entry in header.items()} == {n: tuple(W.shape) for n, W in stored.items()}
    assert sum(entry.nbytes for entry in header.values()) == sum(W.nbytes for W in stored.values())


def test_every_type_that_the_library_writes_is_known(tmp_path):
    kinds = [
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.complex64,
    ]  # fmt: skip
    tensors = {str(kind): torch.zeros(3, 2, dtype=torch.uint8).to(kind) for kind in kinds}
    save_file(tensors | {"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 4)}, tmp_path / "w.safetensors")
    header = read_header(tmp_path / "w.safetensors")
    assert len(header) == len(kinds) + 2
    assert {entry.dtype for entry in header.values()} <= set(BITS)


GOOD = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}}  # fmt: skip
RAW = json.dumps(GOOD).encode()
FILE = struct.pack("<Q", len(RAW)) + RAW + bytes(24)


@given(at=st.integers(0, len(FILE) - 1), byte=st.integers(0, 255), length=st.integers(0, len(FILE) + 5))
def test_a_damaged_byte_or_a_cut_is_our_error_or_no_harm(tmp_path_factory, at, byte, length):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    content = bytearray(FILE + bytes(5))[:length]
    if at < length:
        content[at] = byte
    path.write_bytes(bytes(content))
    try:
        header = read_header(path)
    except QuantlabError:
        return  # any other error fails this test
    # then the header describes this very file
    assert 8 + int.from_bytes(content[:8], "little") + sum(entry.nbytes for entry in header.values()) == length


def test_model_types_of_transformers():
    assert known_classes("llama") == ("LlamaForCausalLM",)
    assert known_classes("qwen3") == ("Qwen3ForCausalLM",)
    assert known_classes("nothing") == ()
