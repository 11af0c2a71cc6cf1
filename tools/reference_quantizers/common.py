"""What the reference quantizers share: their arguments, and how their result is written.

Each `with_*.py` beside this file runs one library in a process of its own, in whatever environment has that library:

    python with_autoawq.py MODEL TOKENS OUT --bits 4 --group 128

MODEL is a Hugging Face folder, TOKENS a JSON list of lists of token ids (the calibration samples, equally long), OUT a
safetensors file with every tensor of the quantized model as a dense matrix, so that all of them are measured alike. The
last line printed is a JSON object: seconds of loading and of quantizing, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

START = time.perf_counter()


def arguments(add: Callable[[argparse.ArgumentParser], object] = lambda parser: None) -> argparse.Namespace:
    """The command line; `add` gives it a library's own options."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--blocks", type=int, help="quantize only the first so many (AutoAWQ)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    add(parser)
    return parser.parse_args()


def samples(path: Path) -> list[list[int]]:
    """The calibration samples."""
    found: list[list[int]] = json.loads(path.read_text(encoding="utf-8"))
    return found


class Clock:
    """Seconds of each stage, in order."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = START

    def lap(self, stage: str) -> None:
        """What was done since the last lap is called `stage`."""
        now = time.perf_counter()
        self.stages[stage], self._last = now - self._last, now


def finish(clock: Clock, out: Path, tensors: dict[str, Any]) -> None:
    """Print what was measured, then write the tensors (writing is not part of the time)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    from safetensors.torch import save_file

    save_file({name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()}, out)
    cpu_s = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": clock.stages, "cpu_s": cpu_s, "peak_mib": used.ru_maxrss / 1024}))
