"""What it takes to run each engine, as data. A new engine is one entry here and one test.

An engine turns a model name into a file it can load (`prepare`) and a job into a process (`launch`).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from quantlab.backends.environments import python_of
from quantlab.errors import UsageError, unknown
from quantlab.serve.artifacts import Artifact, Say, folder_for, gguf_for


@dataclass(frozen=True)
class Job:
    """What one server shall serve, and how."""

    artifact: Artifact
    context: int
    threads: int
    socket: int  # file descriptor of a listening socket, inherited by the server
    key: str = field(repr=False)
    flags: tuple[str, ...] = ()  # further words of the engine's own command line


@dataclass(frozen=True)
class Launch:
    """A process to start: its arguments, what its environment has besides ours, and the first line of its stdin."""

    argv: list[str]
    environment: dict[str, str]
    first_line: str = field(repr=False)


def flags_of_none(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Of an engine that takes no options beside ours."""
    if options:
        raise UsageError(f"this engine takes no options such as {next(iter(options))}; they are vLLM's")
    return ()


@dataclass(frozen=True)
class Engine:
    """A program that serves models."""

    name: str
    missing: Callable[[], str | None]  # None, or the sentence that says what is missing and how to get it
    prepare: Callable[[str, str | None, Say], Artifact]
    launch: Callable[[Job], Launch]
    grace_s: float = 5.0  # between the polite end and the sudden one
    flags: Callable[[Mapping[str, Any]], tuple[str, ...]] = flags_of_none  # options -> words of its command line


def own_python(module: str) -> Launch:
    """A module of ours as a process that sees neither the current folder's files nor a changed sys.path.

    A learner's `random.py` beside the notebook must not become the server's `random`.
    """
    import quantlab

    root = str(Path(quantlab.__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return Launch([sys.executable, "-P", "-u", "-m", module], {"PYTHONPATH": path}, "")


def default_threads() -> int:
    """Physical cores that this process may use: more threads only make llama.cpp wait for memory."""
    physical: int = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(physical, allowed))


def _llama_cpp_missing() -> str | None:
    needed = ("llama_cpp", "uvicorn", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings")
    absent = [name for name in needed if find_spec(name) is None]
    if not absent:
        return None
    return (
        f"llama.cpp's server is not installed here ({', '.join(absent)} missing); with a C++ compiler, "
        "get it with: pip install 'quantlab[llamacpp]'"
    )


def _settings(job: Job) -> str:
    """The first line of a server's stdin."""
    artifact = job.artifact
    return json.dumps(
        {
            "path": str(artifact.path),
            "model": artifact.model,
            "context": job.context,
            "threads": job.threads,
            "socket": job.socket,
            "key": job.key,
            "flags": list(job.flags),
        }
    )


def _llama_cpp_launch(job: Job) -> Launch:
    process = own_python("quantlab.serve.llama_cpp_server")
    return Launch(process.argv, process.environment, _settings(job))


# Said by quantlab itself, or never: the checkpoint names its own quantization, and no code of a model is run.
KEPT = ("host", "port", "api_key", "served_model_name", "max_model_len", "quantization", "trust_remote_code", "model")


def vllm_flags(options: Mapping[str, Any]) -> tuple[str, ...]:
    """vLLM's own options, by its names: True is a bare flag, False its --no- form, a mapping JSON.

    >>> vllm_flags({"kv_cache_dtype": "fp8", "enable_prefix_caching": False, "speculative_config": {"method": "ngram"}})
    ('--kv-cache-dtype', 'fp8', '--no-enable-prefix-caching', '--speculative-config', '{"method": "ngram"}')
    """
    words: list[str] = []
    for name, value in options.items():
        plain = name.lower().lstrip("-").replace("-", "_")
        if not plain.isidentifier():
            raise UsageError(f"{name!r} is no option of vLLM; write its name alone, as in kv_cache_dtype")
        if plain in KEPT:
            raise UsageError(f"{name} is not yours to set here: quantlab says it, or the checkpoint does; leave it out")
        flag = plain.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", json.dumps(value) if isinstance(value, Mapping | list) else str(value)]
    return tuple(words)


def vllm_python() -> Path | None:
    """The Python of the environment that holds vLLM.

    QUANTLAB_VLLM names it; else it is the one of `quantlab env create serve`, or that of a `vllm` command on the PATH.
    """
    if chosen := os.environ.get("QUANTLAB_VLLM"):
        place = Path(chosen).expanduser()
        return place / "bin/python" if place.is_dir() else place
    if python := python_of("serve"):
        return python
    command = shutil.which("vllm")
    if command is None:
        return None
    first = Path(command).read_bytes().partition(b"\n")[0]
    return Path(os.fsdecode(first[2:]).strip()) if first.startswith(b"#!") else None


def _vllm_missing() -> str | None:
    python = vllm_python()
    if python is not None and python.is_file():
        return None
    found = f"{python} is no Python" if python else "no vllm command is on the PATH"
    return (
        f"vLLM is not found ({found}); make its environment with `quantlab env create serve`, which says first what it "
        "costs, or set QUANTLAB_VLLM to the folder of one"
    )


def _vllm_launch(job: Job) -> Launch:
    python = vllm_python()
    assert python, "missing() was asked before"
    script = Path(__file__).with_name("vllm_server.py")
    return Launch([str(python), "-P", "-u", str(script)], {}, _settings(job))


ENGINES = {
    "llama.cpp": Engine("llama.cpp", _llama_cpp_missing, gguf_for, _llama_cpp_launch),
    "vllm": Engine("vllm", _vllm_missing, folder_for, _vllm_launch, grace_s=15.0, flags=vllm_flags),
}


def engine(name: str) -> Engine:
    """An engine by name; an unknown one raises with the nearest that exists."""
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    return ENGINES[name]
