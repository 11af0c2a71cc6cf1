"""This machine as the planner sees it: its GPU as nvidia-smi names it, else its processor, memory and bandwidth.

    this_machine()        the NVIDIA GPU with the most memory, else a Mac's chip, else the processor
    this_cpu()            cores and memory that this process may use (a container's limit counts); no bandwidth
    measured_cpu()        the same with its bandwidth *measured*: some tenths of a second

The measurement copies one block of memory to another with every core at once, as STREAM's "copy" does, and counts each
byte twice, as read and as written. Reading alone, which is what a model does with its weights, is often faster, by up
to a half: a cache line that is written is read first on most processors, and that is not counted. Take it for the size
of the thing, not for the third digit. Standard library only: ctypes' memmove lets other threads run while it copies.
Cards of AMD and Intel are not looked for.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from quantlab.errors import QuantlabError, UsageError
from quantlab.plan.gpus import GPUS, MACS, Gpu, gpu

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
_STEMS = ("rtx 3090", "rtx 4090", "rtx 5090", "l40s", "a100", "h100", "h200", "b200", "v100", "a10g", "a10", "t4", "l4")
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_UNLIMITED = 2**60  # cgroup 1 writes nearly 2**63 where there is no limit


def parse_smi(csv: str) -> list[Gpu]:
    """The GPUs in nvidia-smi's answer to QUERY, each as the table has it, with the memory that it reports.

    >>> [card.name for card in parse_smi("NVIDIA A100-SXM4-80GB, 81920, 8.0\\nNVIDIA L4, 23034, 8.9")]
    ['a100-80', 'l4']
    """
    found = []
    for line in csv.strip().splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and fields[1].isdigit():
            found.append(_seen(fields[0], int(fields[1]), fields[2]))
    return found


def _seen(name: str, mib: int, capability: str) -> Gpu:
    """The entry for a card of this name and size; a card that is not in the table has no bandwidth and no rates."""
    major, _, minor = capability.partition(".")
    reported = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
    words = " ".join(re.split(r"[^a-z0-9]+", name.lower()))
    stem = next((stem for stem in _STEMS if re.search(rf"\b{stem}\b", words)), None)
    same = [card for card in GPUS.values() if stem and re.search(rf"\b{stem}\b", card.label.lower())]
    sized = [card for card in same if abs(card.driver_mib - mib) <= 0.1 * mib]
    board = [card for card in sized if ("pcie" in card.label.lower()) == ("pcie" in words)] or sized
    card = min(board, key=lambda card: abs(card.driver_mib - mib), default=None)
    if card is None:  # unknown, or a slice of a card (MIG)
        return Gpu(words.replace(" ", "-"), name, round(mib / 1024), mib, round(mib * 2**20 * 0.97), 0.0, reported,
                   source="nvidia-smi", unverified=("memory_bytes",))  # fmt: skip
    return card


def nvidia_gpus(timeout_s: float = 20.0) -> list[Gpu]:
    """The NVIDIA GPUs of this machine; empty where there is no driver, or it does not answer."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_smi(done.stdout) if done.returncode == 0 else []


def this_machine() -> Gpu:
    """What a plan for this machine is made for: its largest NVIDIA GPU, else its Apple chip, else its processor."""
    if found := nvidia_gpus():
        return max(found, key=lambda card: card.memory_bytes)
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return this_mac(_sysctl("machdep.cpu.brand_string"), int(_sysctl("hw.memsize") or 0))
    return this_cpu()


def this_mac(chip: str, memory_bytes: int) -> Gpu:
    """The entry for an Apple chip, as `sysctl machdep.cpu.brand_string` names it, with so much memory.

    >>> this_mac("Apple M2 Pro", 16 * 2**30).label
    'Apple M2 Pro 16 GB'
    """
    key = "-".join(chip.lower().removeprefix("apple").split())
    if key not in MACS:
        raise QuantlabError(f"the chip {chip!r} is not in the table of Macs; plan for one of {', '.join(MACS)}")
    return gpu(f"{key}-{round(memory_bytes / 2**30)}")


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(
            ["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def this_cpu() -> Gpu:
    """This machine's processor and the memory that a process may take; its bandwidth is not known (0)."""
    total = memory_limit()
    return Gpu("cpu", f"this CPU ({cores()} cores)", round(total / 2**30), round(total / 2**20), total, 0.0, (0, 0),
               maker="CPU", source="this machine", date=time.strftime("%Y-%m"))  # fmt: skip


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_limit(files: Iterable[str] = _CGROUP) -> int:
    """Bytes of memory: the machine's, or a container's limit where that is smaller."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in files:
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        sizes += [int(text)] if text.isdigit() and int(text) < _UNLIMITED else []
    return min(sizes)


def measured_cpu(mib: int = 32, repeats: int = 3) -> Gpu:
    """`this_cpu()` with its bandwidth measured now, by copying `mib` MiB on every core."""
    return replace(this_cpu(), bandwidth=copy_bandwidth(mib, repeats), source="measured here: a copy, counted twice")


def copy_bandwidth(mib: int = 32, repeats: int = 3, threads: int | None = None) -> float:
    """Bytes a second that all cores together copy, read and written counted, the best of so many repeats.

    mib: what each thread copies; more than its share of the last cache, or it is the cache that is measured.
    """
    for name, value in (("mib", mib), ("repeats", repeats)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096:
            raise UsageError(f"{name} must be a whole number from 1 to 4096, it is {value!r}")
    count, nbytes = threads or cores(), mib * 2**20
    pairs = [(ctypes.create_string_buffer(nbytes), ctypes.create_string_buffer(nbytes)) for _ in range(count)]
    for target, source in pairs:  # the first pass finds the pages, and is not timed
        ctypes.memmove(target, source, nbytes)
    return max(2 * nbytes * count / _copied(pairs, nbytes) for _ in range(repeats))


def _copied(pairs: Sequence[tuple[object, object]], nbytes: int) -> float:
    """Seconds until every pair is copied once, each on a thread of its own."""
    gate = threading.Barrier(len(pairs) + 1)

    def copy(target: object, source: object) -> None:
        gate.wait()
        ctypes.memmove(target, source, nbytes)  # type: ignore[arg-type]

    workers = [threading.Thread(target=copy, args=pair) for pair in pairs]
    for worker in workers:
        worker.start()
    gate.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began
