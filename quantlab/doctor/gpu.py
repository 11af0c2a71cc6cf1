"""What the NVIDIA driver says about the GPU, and whether torch can use it."""

from __future__ import annotations

import platform
import re
import shutil
from dataclasses import dataclass
from typing import Any

from quantlab.doctor.checks import Check, Status, gib, run

OLDEST = (7, 5)  # compute capability that vLLM's wheels start at (Turing); V100 (7.0) is below it
_FIELDS = "name,memory.total,compute_cap,driver_version"


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it."""

    name: str
    memory: int  # bytes
    capability: tuple[int, int]
    driver: str


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi found: GPUs and the CUDA version of the driver, or why it found none."""

    gpus: tuple[Gpu, ...] = ()
    cuda: str = ""
    problem: str = ""  # there is a driver, and it does not work


def ask_driver() -> Driver:
    """Run nvidia-smi, where there is one."""
    if not shutil.which("nvidia-smi"):
        return Driver()
    code, out, err = run(["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"], 20)
    if code != 0:
        lines = (out + err).strip().splitlines() or ["nvidia-smi failed"]
        return Driver(problem=lines[0])
    _, banner, _ = run(["nvidia-smi"], 20)
    return Driver(parse_gpus(out), parse_cuda(banner))


def parse_gpus(csv: str) -> tuple[Gpu, ...]:
    """Rows of `nvidia-smi --query-gpu`.

    >>> parse_gpus("Tesla T4, 15360, 7.5, 580.65.06")[0].capability
    (7, 5)
    """
    found = []
    for line in csv.strip().splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4:
            name, mib, capability, driver = fields
            major, _, minor = capability.partition(".")
            numbers = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
            found.append(Gpu(name, int(mib) * 2**20 if mib.isdigit() else 0, numbers, driver))
    return tuple(found)


def parse_cuda(banner: str) -> str:
    """The CUDA version in nvidia-smi's banner: the newest that the driver supports.

    >>> parse_cuda("| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06    CUDA Version: 13.0 |")
    '13.0'
    """
    found = re.search(r"CUDA[\w ]*Version\s*:\s*([\d.]+)", banner)
    return found.group(1) if found else ""


def checks(driver: Driver, torch: dict[str, Any]) -> list[Check]:
    """Lines for the GPU, its compute capability, the driver and CUDA. torch: what the child process found."""
    if driver.problem:
        fix = "mend the NVIDIA driver (after an update: restart the machine)"
        return [Check("GPU", Status.WARNING, driver.problem, fix), *_none("compute capability", "driver", "CUDA")]
    if not driver.gpus:
        metal = platform.system() == "Darwin" and platform.machine() == "arm64"
        value = "Apple Metal (used by llama.cpp only)" if metal else "none; the lessons and the rehearsals need none"
        return [Check("GPU", Status.NOTE, value), *_none("compute capability", "driver", "CUDA")]
    first = driver.gpus[0]
    more = f" and {len(driver.gpus) - 1} more" if len(driver.gpus) > 1 else ""
    return [
        Check("GPU", Status.OK, f"{first.name}, {gib(first.memory)}{more}"),
        _capability(first),
        Check("driver", Status.OK, first.driver),
        _cuda(driver, torch),
    ]


def _none(*names: str) -> list[Check]:
    return [Check(name, Status.NOTE, "none") for name in names]


def _capability(gpu: Gpu) -> Check:
    value = ".".join(str(number) for number in gpu.capability)
    if gpu.capability < OLDEST:
        return Check(
            "compute capability", Status.WARNING, value, "use a GPU of 7.5 or newer (T4, A10, L4, ...) for vLLM"
        )
    return Check("compute capability", Status.OK, value)


def _cuda(driver: Driver, torch: dict[str, Any]) -> Check:
    built = str(torch.get("cuda") or "")
    value = f"driver up to {driver.cuda or 'unknown'}, torch built for {built or 'the CPU only'}"
    if torch.get("gpu_works"):
        return Check("CUDA", Status.OK, value)
    if not built:
        return Check("CUDA", Status.WARNING, value, "install torch in its CUDA build (pytorch.org says how)")
    if driver.cuda and int(built.split(".")[0]) > int(driver.cuda.split(".")[0]):
        return Check("CUDA", Status.WARNING, value, f"update the NVIDIA driver to one for CUDA {built}")
    return Check("CUDA", Status.WARNING, f"{value}; torch finds no GPU", "check CUDA_VISIBLE_DEVICES and the driver")
