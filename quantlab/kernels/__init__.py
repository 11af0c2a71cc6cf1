"""GPU kernels, read and written: a matrix of 4-bit weights times 16-bit inputs, in Triton.

    w4a16.py     the kernel, and the function that calls it
    check.py     a process that runs it, in Triton's interpreter where there is no GPU, and says how near and how fast

Nothing here imports Triton until it is asked for. On an NVIDIA GPU torch brings it. Elsewhere it lives in a folder of
its own beside the other packages, because several of them import it where they find it, and then take longer to start.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

TRITON = "triton==3.9.0"


def apart() -> Path:
    """The folder that holds Triton where torch does not bring it."""
    return Path(sys.prefix) / "kernels"


def available() -> str | None:
    """None when Triton is here, else the sentence that says how to get it."""
    if find_spec("triton") or (apart() / "triton").is_dir():
        return None
    if not sys.platform.startswith("linux"):
        return "Triton runs on Linux only; the kernel can be read, but not run here"
    return f"Triton is not here; get it with: {sys.executable} -m pip install --no-deps --target {apart()} {TRITON}"


def environment() -> dict[str, str]:
    """The variables of a process that finds this package and Triton."""
    places = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", ""), str(apart())]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
