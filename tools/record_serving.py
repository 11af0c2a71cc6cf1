"""Record what vLLM's options buy on this machine, for lab 5 to replay: assets/recorded/cpu-vllm-variants.json.

    RECORD_COMMIT=$(git rev-parse --short HEAD) .venv/bin/python tools/record_serving.py [--out FILE] [--repeats 3]

Five servers one after the other, each asked the same (quantlab.lesson.lab5). Close what else computes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import psutil

from quantlab import atomic
from quantlab.lesson import lab, lab5, serving_run
from quantlab.serve.engines import vllm_python
from quantlab.serve.load.report import passport


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(serving_run.FILE))
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    found = lab5.try_all(lab.setting(), chosen.repeats)
    print(lab5.table(found, "measured here"))
    print(lab5.reasons(found))
    where = {**passport(), "processor": processor(), "versions": versions(), "load": psutil.getloadavg()[0],
             "commit": os.environ.get("RECORD_COMMIT", "")}  # fmt: skip
    rows = {
        name: by if isinstance(by, str) else [asdict(row) for row in by]
        for name, by in found.items()
    }  # fmt: skip
    atomic.write_text(chosen.out, json.dumps({"where": where, "variants": rows}, indent=1) + "\n")


def processor() -> str:
    """The model of the processor and how many cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{len(psutil.Process().cpu_affinity())} cores of {name}"


def versions() -> dict[str, str]:
    """Of vLLM's own environment."""
    python = vllm_python()
    assert python
    ask = "from importlib.metadata import version as v; print(*(v(n) for n in ('vllm', 'torch')))"
    done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True)
    return dict(zip(("vllm", "torch"), done.stdout.split(), strict=True))


if __name__ == "__main__":
    main()
