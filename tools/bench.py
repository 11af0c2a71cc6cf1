"""How fast, how much memory: medians measured now on this machine, written to docs/benchmarks.md.

    python tools/bench.py              every row
    python tools/bench.py --only help  rows whose name contains a word

Each row has a budget from the course's design; a row over its budget is marked, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Row:
    """One figure: how to measure it once, how often, and what it may be at most."""

    name: str
    unit: str
    budget: float
    repeats: int
    measure: Callable[[], float]


def wall(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - started


def tree_rss(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def notebook_run(notebook: str) -> tuple[float, float]:
    """(seconds, peak GiB of the kernel and its children) of executing a notebook from start to end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(BIN / "jupyter"), "nbconvert", "--to", "notebook", "--execute", "--output-dir", folder, notebook]
        started, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            try:
                peak = max(peak, tree_rss(process.pid) - psutil.Process(process.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                break
            threading.Event().wait(0.05)
        if process.wait():
            raise RuntimeError(f"{notebook} failed")
        return time.perf_counter() - started, peak / 2**30


def explorer_move() -> float:
    """95th percentile, in milliseconds, of moving one control of lesson 1's explorer, picture included."""
    code = (
        "import statistics, time\n"
        "from quantlab.widgets.memory_explorer import BATCHES, CONTEXTS, memory_explorer\n"
        "explorer, times = memory_explorer(), []\n"
        "explorer.static().svg()\n"
        "for at in range(100):\n"
        "    started = time.perf_counter()\n"
        "    explorer.move('batch', BATCHES[at % len(BATCHES)])\n"
        "    explorer.move('context', CONTEXTS[at % len(CONTEXTS)])\n"
        "    explorer.static().svg()\n"
        "    times.append(time.perf_counter() - started)\n"
        "print(statistics.quantiles(times, n=20)[-1] * 1000)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


ROWS = (
    Row("import quantlab", "s", 0.3, 7, lambda: wall(sys.executable, "-c", "import quantlab")),
    Row("import quantlab.plan", "s", 0.3, 7, lambda: wall(sys.executable, "-c", "import quantlab.plan.memory")),
    Row("quantlab --help", "s", 0.5, 7, lambda: wall(str(BIN / "quantlab"), "--help")),
    Row("quantlab compare tiny", "s", 120, 1, lambda: wall(str(BIN / "quantlab"), "compare", "tiny")),
    Row("explorer, one move (p95)", "ms", 100, 3, explorer_move),
    Row("lesson 1, whole notebook", "s", 90, 1, lambda: notebook_run("lessons/01_the_memory_problem.ipynb")[0]),
    Row("lesson 1, peak memory", "GiB", 1, 1, lambda: notebook_run("lessons/01_the_memory_problem.ipynb")[1]),
    Row("lab 1 in rehearsal", "s", 180, 1, lambda: notebook_run("labs/01_fit_a_model.ipynb")[0]),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    args = parser.parse_args()
    lines, over = [], False
    for row in (r for r in ROWS if args.only in r.name):
        median = statistics.median(row.measure() for _ in range(row.repeats))
        mark = "" if median <= row.budget else " **over**"
        over |= bool(mark)
        lines.append(f"| {row.name} | {median:.3g} {row.unit} | {row.budget:g} {row.unit}{mark} | {row.repeats} |")
        print(lines[-1], flush=True)
    if not args.only:
        head = (
            f"# Benchmarks\n\nWritten by `make bench` on {time.strftime('%Y-%m-%d')}: {platform.machine()}, "
            f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, Python "
            f"{platform.python_version()}. Medians of whole processes.\n\n"
            "| what | median | budget | runs |\n|---|---|---|---|\n"
        )
        (ROOT / "docs/benchmarks.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(1 if over else 0)


if __name__ == "__main__":
    main()
