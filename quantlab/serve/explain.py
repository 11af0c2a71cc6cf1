"""What a message of vLLM, CUDA, llama.cpp or the Hub means: what happened, which number was short, which knob to turn.

A rule is a pattern for the message and two sentences; the message's own figures stand in the sentences by name. The
first rule that matches is the answer, so that the exact ones come before the general. Each message was read where
`source` says; the flags are vLLM's and `quantlab serve`'s own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Rule:
    """One message: its pattern, what happened, what to do, and where the message was read."""

    name: str
    message: str
    happened: str
    mend: str
    source: str

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Compiled when it is first looked for; a message may run over several lines."""
        return re.compile(self.message, re.DOTALL)


@dataclass(frozen=True)
class Explanation:
    """A message in words: which rule, what happened, how to mend it."""

    rule: str
    happened: str
    mend: str

    def __str__(self) -> str:
        return f"{self.happened}; {self.mend}"


VLLM = "vllm 0.32"
N, GIB = r"[\d,]+", r"[\d.]+"  # a whole number, and one of GiB

RULES = (
    Rule(
        "one request does not fit",
        rf"model's max seq len \((?P<length>{N})\), \((?P<need>{GIB}) GiB KV cache is needed.*?"
        rf"available KV cache memory \((?P<left>{GIB}) GiB\)",
        "one request of {length} tokens needs {need} GiB of KV cache, and {left} GiB are left beside the weights",
        "ask for a shorter context (--context, in vLLM --max-model-len: the message names one that fits), raise "
        "--gpu-memory-utilization, store the cache in 8 bits (--kv-cache-dtype fp8), or take fewer bits a weight",
        f"{VLLM} vllm/v1/core/kv_cache_utils.py",
    ),
    Rule(
        "no room for a cache",
        r"No available memory for the cache blocks",
        "the weights and the engine's own memory leave nothing for the KV cache",
        "raise --gpu-memory-utilization, choose fewer bits for the weights, or spread the model over more GPUs "
        "(--tensor-parallel-size); `quantlab plan` shows what fits",
        f"{VLLM} vllm/v1/core/kv_cache_utils.py",
    ),
    Rule(
        "another program holds the memory",
        rf"Free memory on device \S* ?\((?P<free>{GIB})/(?P<total>{GIB}) GiB\) on startup is less than desired GPU "
        rf"memory utilization \((?P<share>{GIB}), (?P<wish>{GIB}) GiB\)",
        "{wish} GiB were asked for ({share} of the device), and {free} of its {total} GiB are free",
        "end the programs that hold the rest (`nvidia-smi` lists them; a notebook with a model is one), or lower "
        "--gpu-memory-utilization",
        f"{VLLM} vllm/v1/worker/utils.py",
    ),
    Rule(
        "longer than the model",
        rf"max_model_len \((?P<length>{N})\) is greater than the derived max_model_len \(\D*(?P<window>{N})",
        "a context of {length} tokens was asked for, and the model was trained for {window}",
        "ask for {window} or less (--context, in vLLM --max-model-len)",
        f"{VLLM} vllm/config/model.py",
    ),
    Rule(
        "heads do not divide",
        rf"attention heads \((?P<heads>{N})\) must be divisible by tensor parallel size \((?P<gpus>{N})\)",
        "{heads} attention heads cannot be shared out evenly to {gpus} GPUs",
        "choose a --tensor-parallel-size that divides {heads}, and --pipeline-parallel-size for the rest",
        f"{VLLM} vllm/config/model.py",
    ),
    Rule(
        "method too new for the GPU",
        r"quantization method (?P<what>\S+) is not supported for the current GPU\. Minimum capability: "
        r"(?P<least>\d+)\. Current capability: (?P<have>\S+?)\.?(?:\s|$)",
        "{what} needs a GPU of compute capability {least} (in tenths), and this one has {have}",
        "choose a format for this GPU: `quantlab plan` lists those that run on it",
        f"{VLLM} vllm/config/vllm.py",
    ),
    Rule(
        "scheme too new for the GPU",
        r"Quantization scheme is not supported for the current GPU\. Required capability: (?P<least>\d+)\. "
        r"Current capability: (?P<have>\d+)",
        "this checkpoint's scheme needs compute capability {least} (in tenths), and this GPU has {have}",
        "choose a format for this GPU: `quantlab plan` lists those that run on it",
        f"{VLLM} vllm/model_executor/layers/quantization/compressed_tensors/compressed_tensors.py",
    ),
    Rule(
        "--quantization contradicts the checkpoint",
        r"\((?P<file>\S+)\) does not match the quantization method specified in the `quantization` argument "
        r"\((?P<flag>\S+)\)",
        "the checkpoint is stored in {file}, and --quantization says {flag}",
        "leave --quantization out: vLLM reads the method from the checkpoint, and picks the fastest kernel for it",
        f"{VLLM} vllm/config/model.py",
    ),
    Rule(
        "slice of a layer too narrow",
        rf"Weight (?:input|output)_size_per_partition ?= ?(?P<have>{N})[\s\S]*? is not divisible by "
        rf"[\w ]*= ?(?P<unit>{N})",
        "a layer's share of {have} values on each GPU is not a whole number of groups or tiles of {unit}",
        "choose a smaller --tensor-parallel-size, or quantize with a smaller group",
        f"{VLLM} vllm/model_executor/layers/quantization/utils/marlin_utils.py",
    ),
    Rule(
        "model unknown to vLLM",
        r"Model architectures (?P<what>\[.*?\]) are not supported for now",
        "this version of vLLM does not know {what}",
        "take a newer vLLM, or another engine: `quantlab plan` names those for the model's family",
        f"{VLLM} vllm/model_executor/models/registry.py",
    ),
    Rule(
        "more GPUs than there are",
        rf"World size \((?P<wish>{N})\) is larger than the number of available GPUs \((?P<have>{N})\)",
        "{wish} GPUs were asked for, and there are {have}",
        "lower --tensor-parallel-size times --pipeline-parallel-size to {have}",
        f"{VLLM} vllm/config/parallel.py",
    ),
    Rule(
        "prompt too long",
        rf"maximum context length is (?P<window>{N}) tokens\. However,.*?prompt contains (?:at least )?"
        rf"(?P<sent>{N}) (?P<what>input tokens|characters)",
        "a prompt of {sent} {what}, with the tokens asked for, does not fit the server's context of {window} tokens",
        "shorten the prompt, ask for fewer new tokens (max_tokens), or start the server with a longer --context",
        f"{VLLM} vllm/renderers/params.py",
    ),
    Rule(
        "no chat template",
        r"default chat template is no longer allowed",
        "the model's tokenizer has no chat template: it is a base model, or the file was left behind",
        "use completions instead of chat, or give a template with --chat-template",
        f"{VLLM} vllm/renderers/hf.py",
    ),
    Rule(
        "out of GPU memory",
        r"CUDA out of memory\. Tried to allocate (?P<need>[\d.]+ [KMG]iB)\..*?total capacity of "
        r"(?P<total>[\d.]+ [KMG]iB) of which (?P<free>[\d.]+ [KMG]iB) is free",
        "the GPU was asked for {need} more, and {free} of its {total} are free",
        "end other programs on it (`nvidia-smi`), lower --gpu-memory-utilization or --max-num-seqs, or take fewer bits",
        "torch 2.13 c10/cuda/CUDACachingAllocator.cpp",
    ),
    Rule(
        "no kernel for the GPU",
        r"no kernel image is available for execution on the device",
        "this build was not compiled for this generation of GPU",
        "install a build whose CUDA version supports it: `quantlab env create serve` picks one for the driver",
        "CUDA runtime, cudaErrorNoKernelImageForDevice",
    ),
    Rule(
        "driver too old",
        r"NVIDIA driver on your system is too old \(found version (?P<have>\d+)\)",
        "the NVIDIA driver supports CUDA {have} (in thousands), and this build needs a newer one",
        "update the driver, or run `quantlab env create serve`, which picks a build for the driver",
        "torch 2.13 torch/csrc/cuda/Module.cpp",
    ),
    Rule(
        "driver too old for the runtime",
        r"CUDA driver version is insufficient for CUDA runtime version",
        "the NVIDIA driver is older than this build's CUDA",
        "update the driver, or run `quantlab env create serve`, which picks a build for the driver",
        "CUDA runtime, cudaErrorInsufficientDriver",
    ),
    Rule(
        "no GPU seen",
        r"no CUDA-capable device is detected|No CUDA GPUs are available|Found no NVIDIA driver",
        "no NVIDIA GPU is visible to this process",
        "look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES; a container needs --gpus all",
        "torch 2.13 torch/csrc/cuda, CUDA runtime cudaErrorNoDevice",
    ),
    Rule(
        "GPU memory fault",
        r"CUDA error: an illegal memory access",
        "a kernel read outside its memory; all that this process does on the GPU from now on fails as well",
        "restart the server; if it comes again, set CUDA_LAUNCH_BLOCKING=1 to see which kernel, and report it",
        "CUDA runtime, cudaErrorIllegalAddress",
    ),
    Rule(
        "out of memory",
        r"can't allocate memory: you tried to allocate (?P<need>\d+) bytes",
        "the machine has no {need} bytes of memory left",
        "close other programs, shorten the context, or choose fewer bits: `quantlab plan` shows what fits",
        "torch 2.13 c10/core/impl/alloc_cpu.cpp",
    ),
    Rule(
        "llama.cpp out of memory",
        r"failed to allocate (?:\w+ )?buffer of size (?P<need>[\d.]+(?: MiB)?)",
        "llama.cpp was refused a buffer of {need} (bytes, if nothing else stands there)",
        "shorten the context (--context), or choose fewer bits: `quantlab plan` shows what fits",
        "llama.cpp ggml/src/ggml-backend.cpp, src/llama-context.cpp",
    ),
    Rule(
        "memory refused",
        r"(?i)OpenBLAS error: Memory allocation still failed|memory allocation of \d+ bytes failed|std::bad_alloc|"
        r"failed to map segment from shared object|cannot allocate memory|^MemoryError",
        "the system refused the program memory",
        "close other programs or raise the limit it runs under (`ulimit -v`, a container's), shorten the context, or "
        "choose fewer bits: `quantlab plan` shows what fits",
        "OpenBLAS driver/others/memory.c, Rust's alloc, glibc's dlopen, POSIX ENOMEM",
    ),
    Rule(
        "GGUF cut short",
        r"tensor '(?P<what>[^']+)' data is not within the file bounds",
        "the GGUF file ends before {what}: the download or the copy was cut short",
        "fetch or make the file again; `quantlab verify` says what is missing",
        "llama.cpp ggml/src/gguf.cpp",
    ),
    Rule(
        "not GGUF",
        r"invalid magic characters?:? ?(?P<what>'?[^\n,]*)|failed to read magic",
        "the file is no GGUF file: it does not begin with the letters GGUF",
        "look what it is (a Git LFS pointer and a page of an error are common); `quantlab verify` names it",
        "llama.cpp ggml/src/gguf.cpp",
    ),
    Rule(
        "model unknown to llama.cpp",
        r"unknown model architecture: '(?P<what>[^']+)'",
        "this llama.cpp does not know the architecture {what}",
        "take a newer llama.cpp, or another engine: `quantlab plan` names those for the model's family",
        "llama.cpp src/llama-model.cpp",
    ),
    Rule(
        "prompt too long for llama.cpp",
        rf"Requested tokens \((?P<sent>{N})\) exceed context window of (?P<window>{N})",
        "a request of {sent} tokens does not fit the server's context of {window}",
        "shorten the prompt, ask for fewer new tokens (max_tokens), or start the server with a longer --context",
        "llama_cpp_python 0.3 llama_cpp/llama.py",
    ),
    Rule(
        "port taken",
        r"(?i)address already in use",
        "another program listens on that port",
        "leave --port out, and a free one is taken; `quantlab serve --list` shows servers of ours",
        "POSIX EADDRINUSE",
    ),
    Rule(
        "disk full",
        r"No space left on device",
        "a disk is full",
        "free some space, or set QUANTLAB_CACHE and HF_HOME to a folder on a larger disk",
        "POSIX ENOSPC",
    ),
    Rule(
        "gated model",
        r"Access to model (?P<what>\S+) is restricted|Cannot access gated repo for url (?P<url>\S+?)\.?(?:\s|$)",
        "the model's owner lets in only those who accepted its licence",
        "accept it on the model's page on huggingface.co, then `hf auth login` with a token of that account",
        "huggingface_hub 1 huggingface_hub/utils/_http.py",
    ),
    Rule(
        "no such model",
        r"Repository Not Found for url: (?P<url>\S+?)\.?(?:\s|$)|is not a valid model identifier",
        "the Hub has no model of that name, or it is private",
        "look at the spelling, OWNER/NAME; for a private one, `hf auth login` first",
        "huggingface_hub 1 huggingface_hub/utils/_http.py",
    ),
    Rule(
        "not in the cache, and offline",
        r"outgoing traffic has been disabled|cannot find the requested files in the (?:disk|local) cache",
        "the model is not on this machine, and the Hub may not or cannot be asked",
        "fetch it where there is a network (`hf download OWNER/NAME`), unset HF_HUB_OFFLINE, or name a folder",
        "huggingface_hub 1 huggingface_hub/file_download.py",
    ),
    Rule(
        "too many requests to the Hub",
        r"429 (?:Client Error: )?Too Many Requests",
        "the Hub asks for a pause",
        "wait some minutes; `hf auth login` raises the limit",
        "huggingface_hub 1 huggingface_hub/utils/_http.py",
    ),
    Rule(
        "the repository's own code",
        r"trust_remote_code=True",
        "the model comes with Python code of its own, which is not run here",
        "choose a model whose architecture the library knows; a stranger's code is your own risk, outside quantlab",
        "transformers 5 transformers/dynamic_module_utils.py",
    ),
)


def explain(text: str) -> Explanation | None:
    """What a known message in a text means; of several the one whose rule stands first; None where there is none.

    >>> print(explain("ValueError: Requested tokens (700) exceed context window of 512").happened)
    a request of 700 tokens does not fit the server's context of 512
    """
    for rule in RULES:
        if found := rule.pattern.search(text):
            said = {name: value or "?" for name, value in found.groupdict().items()}
            return Explanation(rule.name, rule.happened.format_map(said), rule.mend.format_map(said))
    return None
