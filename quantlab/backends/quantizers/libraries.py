"""Where each library lives, what it loads, what to say when it is not there. A new one is one entry and one file.

    in the default environment    quantlab, AutoAWQ 0.2.9, llm-compressor 0.14.0.1, bitsandbytes 0.50.2, llama.cpp
                                  (llama-cpp-python 0.3.36)
    in one of its own             GPTQModel 7.7.0 (quantlab.backends.environments)

The versions are those that everything here was tried with.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from quantlab.backends.environments import apart, python_of

_RUNNERS = Path(__file__).with_name("runners")
_LLAMAS = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Library:
    """A library that quantizes.

    module: what is imported of it. install: how to get it. environment: the isolated one that it lives in, else "".
    model_types: those that it loads; empty where it takes whatever transformers knows. bytes_per_weight: at the least,
    of the model in memory while it works.
    """

    name: str
    title: str
    runner: str
    module: str
    install: str
    environment: str = ""
    model_types: tuple[str, ...] = ()
    bytes_per_weight: int = 2

    def missing(self) -> str | None:
        """None, or the sentence that says what is missing and how to get it; nothing is imported."""
        if self.environment:
            if python_of(self.environment) is not None:
                return None
            return (
                f"{self.title} lives in an environment of its own; make it with `quantlab env create "
                f"{self.environment}`, which says first what it costs"
            )
        if find_spec(self.module) is not None:
            return None
        return f"{self.title} is not installed here; get it with: pip install '{self.install}'"

    def command(self) -> tuple[list[str], dict[str, str]]:
        """The process that runs it, and its environment variables."""
        script = [str(_RUNNERS / "host.py"), str(_RUNNERS / self.runner)]
        if self.environment:
            python = python_of(self.environment)
            assert python is not None, "missing() was asked before"
            return [str(python), "-u", *script], apart()
        import quantlab

        root = str(Path(quantlab.__file__).resolve().parent.parent)  # a checkout need not be installed
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
        return [sys.executable, "-u", *script], {**os.environ, "PYTHONPATH": path}


LIBRARIES = {
    library.name: library
    for library in (
        Library("quantlab", "quantlab", "with_quantlab.py", "torch", "quantlab", bytes_per_weight=6),
        Library("autoawq", "AutoAWQ", "with_autoawq.py", "awq", "quantlab[quantizers]",
                model_types=(*_LLAMAS, "gemma", "gemma2", "phi3", "opt", "bloom", "falcon", "gptj", "gpt_neox",
                             "mixtral", "cohere", "stablelm", "starcoder2", "qwen3_moe", "deepseek_v2", "deepseek_v3")),
        Library("llm-compressor", "llm-compressor", "with_llmcompressor.py", "llmcompressor", "quantlab[quantizers]"),
        Library("gptqmodel", "GPTQModel", "with_gptqmodel.py", "gptqmodel", "", environment="gptqmodel"),
        Library("bitsandbytes", "bitsandbytes", "with_bitsandbytes.py", "bitsandbytes", "bitsandbytes"),
        Library("llama.cpp", "llama.cpp", "with_llama_cpp.py", "llama_cpp", "quantlab[llamacpp]", model_types=_LLAMAS),
    )
}  # fmt: skip
