"""Python, platform, memory, disk and processor. A container's limits count, not the host's figures."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path
from threading import Thread

from quantlab.doctor.checks import Check, Status, gib, run
from quantlab.errors import QuantlabError

MIN_MEMORY = 1.0 * 2**30  # what lesson 1 may take at its peak
EASY_MEMORY = 2.0 * 2**30
MIN_DISK = 0.2 * 2**30
EASY_DISK = 4.0 * 2**30
_CPU_FLAGS = {"avx2": "AVX2", "avx512f": "AVX512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16", "amx_tile": "AMX",
              "asimd": "NEON", "asimddp": "dot product", "i8mm": "I8MM", "sve": "SVE"}  # fmt: skip
_CGROUP = Path("/sys/fs/cgroup")


def python() -> Check:
    """3.11 to 3.13: older ones lack syntax that is used, newer ones lack wheels."""
    value = f"{platform.python_version()} ({sys.executable})"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("Python", Status.OK, value)
    return Check("Python", Status.FAILURE, value, "install Python 3.12, then: make lab PYTHON=python3.12")


def system() -> Check:
    """Linux or macOS."""
    value = f"{platform.system()} {platform.release()}, {platform.machine()}"
    if platform.system() in ("Linux", "Darwin"):
        return Check("platform", Status.OK, value)
    return Check("platform", Status.WARNING, value, "use Linux or macOS; on Windows, WSL 2")


def memory() -> Check:
    """Total and available memory, whichever is smaller of the machine's and the container's."""
    import psutil

    machine = psutil.virtual_memory()
    limit, used = container_memory()
    total = min(machine.total, limit or machine.total)
    available = min(machine.available, limit - used if limit else machine.available)
    value = f"{gib(total)}, {gib(available)} available"
    if available < MIN_MEMORY:
        return Check("memory", Status.FAILURE, value, "close other programs: a lesson takes up to 1 GiB")
    if available < EASY_MEMORY:
        return Check("memory", Status.WARNING, value, "close other programs before opening a second notebook")
    return Check("memory", Status.OK, value)


def container_memory(root: Path = _CGROUP) -> tuple[int, int]:
    """Bytes that a container allows and uses (cgroup 2, then 1); zeros where there is no limit."""
    for folder, limit_name, used_name in (
        (root, "memory.max", "memory.current"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit, used = (folder / limit_name).read_text().strip(), int((folder / used_name).read_text())
            stat = dict(re.findall(r"(\w+) (\d+)", (folder / "memory.stat").read_text()))
        except OSError:
            continue
        if limit.isdigit() and int(limit) < 2**60:  # cgroup 1 writes nearly 2**63 for "no limit"
            return int(limit), max(0, used - int(stat.get("inactive_file", 0)))  # the file cache gives way
    return 0, 0


def disk(folder: Path | None = None) -> Check:
    """Free space where work is kept."""
    folder = folder or Path.cwd()
    free = shutil.disk_usage(folder).free
    value = f"{gib(free)} free in {folder}"
    if free < MIN_DISK:
        return Check("disk", Status.FAILURE, value, "free some space, or work in another folder")
    if free < EASY_DISK:
        return Check("disk", Status.WARNING, value, "free 4 GiB before quantizing models of your own")
    return Check("disk", Status.OK, value)


def cpu() -> Check:
    """Cores that this process may use, and the vector instructions that the libraries are compiled for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    features = cpu_features()
    value = f"{cores} core{'' if cores == 1 else 's'}, {', '.join(features) or 'no vector instructions recognised'}"
    if platform.machine() in ("x86_64", "AMD64") and "AVX2" not in features:
        return Check("processor", Status.WARNING, value, "expect slow quantization: this processor has no AVX2")
    return Check("processor", Status.OK, value)


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Names of the vector instructions, as `_CPU_FLAGS` lists them."""
    if platform.system() == "Darwin":
        if platform.machine() == "arm64":
            return ["NEON"]
        _, out, _ = run(["sysctl", "-n", "machdep.cpu.features", "machdep.cpu.leaf7_features"], 5)
        words = set(out.lower().split())
    else:
        try:
            lines = cpuinfo.read_text().splitlines()
        except OSError:
            return []
        words = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    return [label for flag, label in _CPU_FLAGS.items() if flag in words]


def bundled_files() -> Check:
    """The lessons, the model and its texts are all there and well-formed."""
    from quantlab.models import bundled

    try:
        wrong = bundled.problems()
    except (OSError, QuantlabError) as error:
        wrong = [str(error)]
    if wrong:
        what, _, remedy = wrong[0].rpartition("; ")  # as every QuantlabError is phrased
        return Check("bundled files", Status.FAILURE, what, remedy)
    return Check("bundled files", Status.OK, bundled.summary())


def network(timeout_s: float = 2.0) -> Check:
    """Whether the Hugging Face Hub answers; the lessons do not need it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check("network", Status.NOTE, "not asked: HF_HUB_OFFLINE is set, so models come from the cache alone")
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    answer: list[str] = []

    def ask() -> None:  # in a thread, because looking up a name has no time limit of its own
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s):
                answer.append("")
        except urllib.error.HTTPError:
            answer.append("")  # it answered: that is all we want to know
        except (OSError, ValueError) as error:
            answer.append(str(getattr(error, "reason", error)))

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    why = answer[0] if answer else f"no answer within {timeout_s:.0f} s"
    if not why:
        return Check("network", Status.OK, f"{url} answers")
    return Check("network", Status.NOTE, f"{url} cannot be reached ({why})", "connect only to download other models")
