"""Which libraries are installed, and which of them really load. Versions come from metadata, without an import."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from typing import Any

from quantlab.doctor.checks import Check, Status

Answer = dict[str, Any] | str  # what a probe printed, or why it printed nothing

TORCH = """
import json, torch
gpu = torch.cuda.is_available()
if gpu: gpu = bool((torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).sum().item() == 8)
works = bool((torch.ones(2, 2) @ torch.ones(2, 2)).sum().item() == 8)
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpu_works": gpu, "works": works,
                  "cpu": torch.backends.cpu.get_cpu_capability()}))
"""
BITSANDBYTES = """
import json, torch, bitsandbytes.functional as F
W = torch.linspace(-1, 1, 64).reshape(1, 64)
W_hat = F.dequantize_4bit(*F.quantize_4bit(W, quant_type="nf4", blocksize=64))
assert (W - W_hat).abs().max() < 0.2, "NF4 on the CPU gives wrong values"
print(json.dumps({}))
"""
LLAMA_CPP = """
import json, llama_cpp
llama_cpp.llama_backend_init()
from quantlab.backends.llama_cpp_build import fault
print(json.dumps({"gpu": bool(llama_cpp.llama_supports_gpu_offload()), "fault": fault(llama_cpp)}))
"""
COMPILER = (
    "install a C++ compiler (Debian, Ubuntu: sudo apt install build-essential; Fedora: sudo dnf install gcc-c++; "
    "macOS: xcode-select --install), then: "
)


@dataclass(frozen=True)
class Library:
    """A package that quantlab can use."""

    package: str
    use: str  # what is lost without it
    needed: bool = False  # the lessons cannot run without it
    dependencies: bool = True  # False: install it without what its metadata asks for


LIBRARIES = (
    Library("transformers", "loading models", needed=True),
    Library("jupyterlab", "the notebooks", needed=True),
    Library("ipywidgets", "the explorers in the notebooks", needed=True),
    Library("gguf", "reading and writing GGUF files"),
    Library("autoawq", "AWQ as it is deployed (lesson 3)", dependencies=False),  # it asks for 1 GB of triton
    Library("llmcompressor", "GPTQ and FP8 as they are deployed (lesson 3)"),
    Library("compressed-tensors", "the checkpoints that vLLM reads (lesson 3)"),
    Library("peft", "fine-tuning in NF4 (lesson 3)"),
)


def version(package: str) -> str | None:
    """Installed version of a package, None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirement(package: str) -> str:
    """A package with the version that quantlab asks for, as pip takes it.

    >>> requirement("llama-cpp-python")
    'llama-cpp-python[server]==0.3.36'
    """
    try:
        asked = importlib.metadata.requires("quantlab") or []
    except importlib.metadata.PackageNotFoundError:  # run from its sources, not installed
        asked = []
    wanted = (line.split(";")[0].strip() for line in asked)
    return next((line for line in wanted if re.split(r"[\[<>=!~ ]", line)[0].lower() == package), package)


def pip(*words: str) -> str:
    """The command that installs into this very environment."""
    return shlex.join([sys.executable, "-m", "pip", "install", *words])


def torch(answer: Answer) -> Check:
    """Version, build, and whether it multiplies two matrices."""
    installed = version("torch")
    if installed is None:
        return Check("torch", Status.FAILURE, "not installed", pip(requirement("torch")))
    if isinstance(answer, str) or not answer["works"]:
        why = answer if isinstance(answer, str) else "computes wrong values"
        return Check("torch", Status.FAILURE, f"{installed} {why}", pip("--force-reinstall", requirement("torch")))
    build = f"for CUDA {answer['cuda']}" if answer["cuda"] else "for the CPU"
    return Check("torch", Status.OK, f"{answer['version']}, built {build}, uses {answer['cpu']}")


def bitsandbytes(answer: Answer) -> Check:
    """Whether it quantizes to NF4 on this processor."""
    installed = version("bitsandbytes")
    if installed is None:
        return Check("bitsandbytes", Status.WARNING, "not installed: no NF4", pip(requirement("bitsandbytes")))
    if isinstance(answer, str):
        fix = pip("--force-reinstall", "--no-deps", requirement("bitsandbytes"))
        return Check("bitsandbytes", Status.WARNING, f"{installed} {answer}", fix)
    return Check("bitsandbytes", Status.OK, f"{installed}, NF4 works on this processor")


def llama_cpp(answer: Answer) -> Check:
    """Whether llama.cpp was compiled, and for this processor."""
    installed = version("llama-cpp-python")
    compiler = "" if shutil.which("c++") or shutil.which("clang++") or shutil.which("g++") else COMPILER
    wanted = requirement("llama-cpp-python")
    if installed is None:
        value = "not installed: no GGUF types, no server, no rehearsals"
        return Check("llama-cpp-python", Status.WARNING, value, compiler + pip(wanted))
    if isinstance(answer, str):
        again = pip("--force-reinstall", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python", wanted)
        value = f"{installed} {answer}" + ("; it was compiled for another processor" if "SIGILL" in answer else "")
        return Check("llama-cpp-python", Status.WARNING, value, compiler + again)
    if answer["fault"]:
        value, _, fix = answer["fault"].rpartition(": ")
        return Check("llama-cpp-python", Status.WARNING, f"{installed} {value.removeprefix('llama-cpp-python ')}", fix)
    return Check("llama-cpp-python", Status.OK, f"{installed}, {'with' if answer['gpu'] else 'without'} GPU")


def installed(library: Library) -> Check:
    """A line for a library that is judged by its metadata alone."""
    found = version(library.package)
    if found is not None:
        return Check(library.package, Status.OK, found)
    options = () if library.dependencies else ("--no-deps",)
    status = Status.FAILURE if library.needed else Status.WARNING
    return Check(library.package, status, f"not installed: {library.use}", pip(*options, requirement(library.package)))


def vllm() -> Check:
    """vLLM pins other versions than the quantizers do, so it never shares their environment."""
    if found := version("vllm"):
        return Check("vllm", Status.NOTE, f"{found}; it belongs in an environment of its own")
    return Check("vllm", Status.NOTE, "not in this environment, as it should be: it gets one of its own")
