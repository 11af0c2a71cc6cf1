"""What every lab shares: which mode it runs in, and on which model.

LIVE        an NVIDIA GPU is here: a real model is loaded and served on it
REHEARSAL   no GPU: the same cells run on this CPU with the bundled model
RECORDED    a replay of a real run kept under assets/recorded/ (`quantlab.lesson.gpu_run`)

Every figure of a lab says its mode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from quantlab.assets import cache_folder
from quantlab.atomic import explained
from quantlab.plan.gpus import GIB
from quantlab.plan.lab_recipes import LAB_MODELS
from quantlab.plan.lab_sources import SOURCES
from quantlab.plan.memory import memory

# name in the planner -> Hub id, largest first: the largest that fits in bf16 is taken
CANDIDATES = {name: SOURCES[name].repository for name in reversed(LAB_MODELS)}
CONTEXT = 4096  # tokens that must fit beside the weights


class Mode(Enum):
    """How a figure of a lab came about."""

    LIVE = "LIVE: measured on this machine's GPU"
    REHEARSAL = "REHEARSAL: measured on this machine's CPU with the bundled model"
    RECORDED = "RECORDED: replayed from a real run"


@dataclass(frozen=True)
class Setting:
    """Mode, model (by its planner name and by what `quantlab.load` takes), device and its memory."""

    mode: Mode
    planned: str
    model: str
    device: str
    memory_bytes: int

    def __repr__(self) -> str:
        room = f"{self.memory_bytes / GIB:.0f} GiB of memory"
        return f"{self.mode.value}\nmodel {self.model}, device {self.device}, {room}"


def setting() -> Setting:
    """LIVE with the largest candidate that fits this GPU in bf16, else REHEARSAL with the bundled model."""
    import torch

    if torch.cuda.is_available():
        room = torch.cuda.get_device_properties(0).total_memory
        fitting = [name for name in CANDIDATES if memory(name, "bf16", CONTEXT).total_bytes <= room]
        if fitting:
            return Setting(Mode.LIVE, fitting[0], CANDIDATES[fitting[0]], "cuda", room)
    import psutil

    return Setting(Mode.REHEARSAL, "tiny", "tiny", "cpu", psutil.virtual_memory().total)


def workshop(lab: int, here: Setting) -> Path:
    """A folder for what a lab makes of a model, kept so that a second run finds it; remove it to begin anew."""
    folder = cache_folder() / "labs" / f"{lab:02d}-{here.planned}"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


MIB = 2**20
_MEMORY_LINES = {  # what llama.cpp prints when it loads a model -> MiB
    "weights": re.compile(r"model buffer size\s*=\s*([\d.]+) MiB"),
    "KV cache": re.compile(r"KV buffer size\s*=\s*([\d.]+) MiB"),
    "compute buffers": re.compile(r"compute buffer size\s*=\s*([\d.]+) MiB"),
}


def memory_lines(log: Path) -> dict[str, float]:
    """MiB of each part of memory that llama.cpp's log names, summed over its buffers."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return {part: sum(map(float, pattern.findall(text))) for part, pattern in _MEMORY_LINES.items()}
