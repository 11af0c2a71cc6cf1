"""GPU kernels, read and written: a matrix of 4-bit weights times 16-bit inputs, in Triton.

    w4a16.py     the kernel, and the function that calls it
    check.py     a process that runs it, in Triton's interpreter where there is no GPU, and says how near and how fast

Nothing imports Triton until it is asked for: `available()` says whether it is here.
"""

from __future__ import annotations

from importlib.util import find_spec

HOW_TO_GET = "Triton is not installed; on Linux: pip install 'quantlab[kernels]' (on an NVIDIA GPU torch brings it)"


def available() -> str | None:
    """None when Triton can be imported, else the sentence that says how to get it."""
    return None if find_spec("triton") else HOW_TO_GET
