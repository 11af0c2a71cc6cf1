"""The error translator: real messages where they can be had here, and the libraries' own wording for the rest."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from quantlab.backends.environments import python_of
from quantlab.checkpoints.gguf import write_gguf
from quantlab.cli import group
from quantlab.serve.explain import RULES, explain

# rule -> a message with its figures filled in, and what the sentence must name
MESSAGES = {
    "one request does not fit": (
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is "
        "needed, which is larger than the available KV cache "
        "memory (5.71 GiB). Based on the available memory, the estimated "
        "maximum model length is 46768. Try increasing `gpu_memory_utilization`",
        ["131072", "16.0 GiB", "5.71 GiB"],
    ),
    "memory refused": (
        "Original error was: numpy/_core/_multiarray_umath.so: failed to map segment from shared object",
        ["refused"],
    ),
    "no room for a cache": ("ValueError: No available memory for the cache blocks. Try increasing", ["KV cache"]),
    "another program holds the memory": (
        "Free memory on device cuda:0 (10.12/23.68 GiB) on startup is less than desired GPU memory utilization "
        "(0.9, 21.31 GiB). Decrease GPU memory utilization",
        ["21.31 GiB", "10.12", "23.68", "0.9"],
    ),
    "longer than the model": (
        "User-specified max_model_len (9000) is greater than the derived max_model_len (max_position_embeddings="
        "8192 or model_max_length=None in model's config.json).",
        ["9000", "8192"],
    ),
    "heads do not divide": (
        "Total number of attention heads (9) must be divisible by tensor parallel size (2).", ["9 attention", "2 GPUs"]
    ),
    "method too new for the GPU": (
        "The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. "
        "Current capability: 75.",
        ["fp8", "89", "75"],
    ),
    "scheme too new for the GPU": (
        "Quantization scheme is not supported for the current GPU. Required capability: 100. Current capability: 90.",
        ["100", "90"],
    ),
    "--quantization contradicts the checkpoint": (
        "Quantization method specified in the model config (compressed-tensors) does not match the quantization method "
        "specified in the `quantization` argument (awq).",
        ["compressed-tensors", "awq"],
    ),
    "slice of a layer too narrow": (
        "Weight input_size_per_partition = 72 is not divisible by min_thread_k = 128. Consider reducing", ["72", "128"]
    ),
    "model unknown to vLLM": (
        "Model architectures ['NewForCausalLM'] are not supported for now. Supported architectures: dict_keys([",
        ["NewForCausalLM"],
    ),
    "more GPUs than there are": (
        "World size (4) is larger than the number of available GPUs (2) in this node.", ["4 GPUs", "there are 2"]
    ),
    "prompt too long": (
        "This model's maximum context length is 512 tokens. However, your prompt contains at least 600 input tokens, "
        "which exceeds this limit even without any output tokens.",
        ["600 input tokens", "512"],
    ),
    "no chat template": (
        "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template",
        ["chat template"],
    ),
    "out of GPU memory": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of 23.68 "
        "GiB of which 101.06 MiB is free. Including non-PyTorch memory",
        ["224.00 MiB", "101.06 MiB", "23.68 GiB"],
    ),
    "no kernel for the GPU": (
        "CUDA error: no kernel image is available for execution on the device", ["not compiled for this generation"]
    ),
    "driver too old": ("The NVIDIA driver on your system is too old (found version 11040).", ["11040"]),
    "driver too old for the runtime": (
        "CUDA error: CUDA driver version is insufficient for CUDA runtime version", ["driver is older"]
    ),
    "no GPU seen": ("RuntimeError: No CUDA GPUs are available", ["visible"]),
    "GPU memory fault": ("CUDA error: an illegal memory access was encountered", ["outside its memory"]),
    "llama.cpp out of memory": (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9000000000000", ["9000000000000"]
    ),
    "model unknown to llama.cpp": (
        "llama_model_load: error loading model: unknown model architecture: 'newest'", ["newest"]
    ),
    "prompt too long for llama.cpp": ("Requested tokens (700) exceed context window of 512", ["700", "512"]),
    "gated model": (
        "403 Client Error. Cannot access gated repo for url https://huggingface.co/meta-llama/Llama-3.1-8B/resolve.\n"
        "Access to model meta-llama/Llama-3.1-8B is restricted and you are not in the authorized list.",
        ["licence"],
    ),
    "no such model": (
        "404 Client Error. Repository Not Found for url: https://huggingface.co/api/models/nobody/nothing.", ["the Hub"]
    ),
    "too many requests to the Hub": ("429 Client Error: Too Many Requests for url: https://huggingface.co/", ["pause"]),
    "the repository's own code": (
        "Please pass the argument `trust_remote_code=True` to allow custom code to be run.", ["Python code"]
    ),
}  # fmt: skip
PROVOKED = {"out of memory", "GGUF cut short", "not GGUF", "port taken", "disk full", "not in the cache, and offline"}


def test_every_rule_has_its_test() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert MESSAGES.keys() | PROVOKED == set(names)
    assert not MESSAGES.keys() & PROVOKED


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_in_words(name: str) -> None:
    message, figures = MESSAGES[name]
    meant = explain(f"INFO loading\nERROR {message}\n")
    assert meant is not None
    assert meant.rule == name
    assert all(figure in meant.happened for figure in figures), meant.happened
    assert "?" not in str(meant)
    assert "{" not in str(meant)


def test_an_unknown_message_is_not_guessed_at() -> None:
    assert explain("") is None
    assert explain("ValueError: the moon is full") is None


# what of each of vLLM's messages stands in its source as it is
WORDS = {
    "v1/core/kv_cache_utils.py": ["No available memory for the cache blocks", "model's max seq len", "GiB KV",
                                  "larger than the available KV cache"],
    "v1/worker/utils.py": ["Free memory on device", "is less than desired GPU memory utilization"],
    "config/model.py": ["than the derived max_model_len", "must be divisible by tensor parallel size",
                        "does not match the quantization", "method specified in the `quantization` argument"],
    "config/vllm.py": ["is not supported for the current GPU. Minimum", "Current capability:"],
    "model_executor/layers/quantization/compressed_tensors/compressed_tensors.py":
        ["Quantization scheme is not supported for the current GPU. ", "Required capability:"],
    "model_executor/layers/quantization/utils/marlin_utils.py":
        ["Weight input_size_per_partition = ", "by min_thread_k"],
    "model_executor/models/registry.py": ["are not supported for now"],
    "config/parallel.py": ["is larger than the number of", "available GPUs ("],
    "renderers/params.py": ["maximum context length is ", "tokens. However, your prompt", "input tokens, which"],
    "renderers/hf.py": ["default chat template is no longer "],
}  # fmt: skip


@pytest.mark.skipif(python_of("serve") is None, reason="vLLM's environment is not there: quantlab env create serve")
@pytest.mark.parametrize("path", WORDS)
def test_the_words_are_those_of_the_installed_vllm(path: str) -> None:
    python = python_of("serve")
    assert python is not None
    [package] = python.parent.parent.glob("lib/python3*/site-packages/vllm")
    source = (package / path).read_text(encoding="utf-8")
    assert [words for words in WORDS[path] if words not in source] == []
    assert any(rule.source.endswith(path) for rule in RULES)


# ------------------------------------------------------------------------------------------- provoked
def _llama_cpp_says(path: Path) -> str:
    code = "import sys; from llama_cpp import Llama; Llama(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode
    return done.stderr


def test_llama_cpp_on_a_file_that_is_not_gguf(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    meant = explain(_llama_cpp_says(path))
    assert meant is not None
    assert meant.rule == "not GGUF"


def test_llama_cpp_on_a_file_that_was_cut_short(tmp_path: Path, tiny_folder: Path) -> None:
    whole = write_gguf(tiny_folder, tmp_path / "whole.gguf", "f16")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    meant = explain(_llama_cpp_says(cut))
    assert meant is not None
    assert meant.rule == "GGUF cut short"
    assert ".weight" in meant.happened


def test_torch_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**56, dtype=torch.uint8)
    meant = explain(str(error.value))
    assert meant is not None
    assert meant.rule == "out of memory"
    assert str(2**56) in meant.happened


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, pytest.raises(OSError, match="in use") as error:
        socket.create_server(one.getsockname())
    meant = explain(str(error.value))
    assert meant is not None
    assert meant.rule == "port taken"


def test_a_full_disk() -> None:
    meant = explain(str(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert meant is not None
    assert meant.rule == "disk full"


def test_the_hub_without_a_network(tmp_path: Path) -> None:
    code = "from huggingface_hub import hf_hub_download; hf_hub_download('nobody/nothing', 'config.json')"
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=surroundings)
    meant = explain(done.stderr)
    assert meant is not None
    assert meant.rule == "not in the cache, and offline"


# ------------------------------------------------------------------------------------------- the command
def test_the_command(tmp_path: Path, run_cli) -> None:
    log = tmp_path / "vllm.log"
    log.write_text(f"INFO starting\n{MESSAGES['heads do not divide'][0]}\n")
    for said in (run_cli("explain", log).out, CliRunner().invoke(group, ["explain"], log.read_text()).output):
        assert "9 attention heads" in said
        assert "--tensor-parallel-size" in said
    log.write_text("all is well\n")
    run_cli("explain", log).must_say(1, "no message in it is known")
    run_cli("explain", tmp_path / "no such log").must_say(2, "no such log")
