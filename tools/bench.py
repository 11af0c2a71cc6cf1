"""How fast, how much memory: medians measured now on this machine, written to docs/benchmarks.md.

    python tools/bench.py              every row
    python tools/bench.py --only help  rows whose name contains a word

Each row has a budget from the course's design; a row over its budget is marked, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
from versus import measure

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


def plan_import() -> float:
    """Milliseconds of `import quantlab.plan` itself, in a Python that has started."""
    code = "import time; began = time.perf_counter(); import quantlab.plan; print((time.perf_counter() - began) * 1000)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def tree_rss(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    total = 0
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


@cache  # seconds and memory of one run
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


def slowest_move(prepare: str, explorers: str) -> float:
    """The same for several explorers, each control in turn, over all of its values; the slowest counts."""
    code = (
        "import statistics, time\n"
        f"{prepare}\n"
        "worst = 0\n"
        f"for explorer in ({explorers}):\n"
        "    explorer.static().svg()\n"
        "    times = []\n"
        "    for at in range(100):\n"
        "        control = explorer.controls[at % len(explorer.controls)]\n"
        "        started = time.perf_counter()\n"
        "        explorer.move(control.name, control.options[at * 7 % len(control.options)])\n"
        "        explorer.static().svg()\n"
        "        times.append(time.perf_counter() - started)\n"
        "    worst = max(worst, statistics.quantiles(times, n=20)[-1] * 1000)\n"
        "print(worst)"
    )
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def rounding_explorer_move() -> float:
    """Lesson 2's three explorers."""
    prepare = (
        "from quantlab.lesson.lesson2.own_matrix import layer_weights\n"
        "from quantlab.widgets import levels_explorer, salience_explorer, weight_explorer\n"
        "W = layer_weights('model.layers.1.self_attn.k_proj')"
    )
    return slowest_move(prepare, "levels_explorer(W), weight_explorer(W), salience_explorer()")


def method_explorer_move() -> float:
    """Lesson 3's three explorers."""
    prepare = (
        "from quantlab.lesson.lesson2.story import story_model\n"
        "from quantlab.widgets import scaling_explorer, super_block_explorer, sweep_explorer\n"
        "model, name = story_model(), 'model.layers.1.self_attn.k_proj'\n"
        "W, stats = model.layers[name], model.stats[name]"
    )
    return slowest_move(prepare, "sweep_explorer(W, stats), scaling_explorer(), super_block_explorer(W, stats)")


def quality_explorer_move() -> float:
    """Lesson 4's three explorers."""
    prepare = (
        "from quantlab.lesson.lesson4.measured import files\n"
        "from quantlab.widgets import front_explorer, noise_explorer, roofline_explorer"
    )
    return slowest_move(prepare, "noise_explorer(), roofline_explorer(), front_explorer(files().rows, files().worse)")


ROWS = (
    Row("import quantlab", "s", 0.3, 7, lambda: wall(sys.executable, "-c", "import quantlab")),
    Row("import quantlab.plan", "s", 0.3, 7, lambda: wall(sys.executable, "-c", "import quantlab.plan.memory")),
    Row("import quantlab.plan, in a Python that runs", "ms", 50, 7, plan_import),
    Row("quantlab --help", "s", 0.5, 7, lambda: wall(str(BIN / "quantlab"), "--help")),
    Row("quantlab compare tiny", "s", 120, 1, lambda: wall(str(BIN / "quantlab"), "compare", "tiny")),
    Row("explorer, one move (p95)", "ms", 100, 3, explorer_move),
    Row("lesson 1, whole notebook", "s", 90, 1, lambda: notebook_run("lessons/01_the_memory_problem.ipynb")[0]),
    Row("lesson 1, peak memory", "GiB", 1, 1, lambda: notebook_run("lessons/01_the_memory_problem.ipynb")[1]),
    Row("lab 1 in rehearsal", "s", 180, 1, lambda: notebook_run("labs/01_fit_a_model.ipynb")[0]),
    Row("lesson 2, whole notebook", "s", 90, 1, lambda: notebook_run("lessons/02_rounding_to_levels.ipynb")[0]),
    Row("lesson 2, peak memory", "GiB", 1, 1, lambda: notebook_run("lessons/02_rounding_to_levels.ipynb")[1]),
    Row("lesson 2, explorers, one move (p95)", "ms", 100, 3, rounding_explorer_move),
    Row("lab 2 in rehearsal", "s", 180, 1, lambda: notebook_run("labs/02_round_it_yourself.ipynb")[0]),
    Row("lesson 3, whole notebook", "s", 90, 1, lambda: notebook_run("lessons/03_gptq_gguf_and_awq.ipynb")[0]),
    Row("lesson 3, peak memory", "GiB", 1, 1, lambda: notebook_run("lessons/03_gptq_gguf_and_awq.ipynb")[1]),
    Row("lesson 3, explorers, one move (p95)", "ms", 100, 3, method_explorer_move),
    Row("lesson 4, whole notebook", "s", 90, 1, lambda: notebook_run("lessons/04_speed_against_quality.ipynb")[0]),
    Row("lesson 4, peak memory", "GiB", 1, 1, lambda: notebook_run("lessons/04_speed_against_quality.ipynb")[1]),
    Row("lesson 4, explorers, one move (p95)", "ms", 100, 3, quality_explorer_move),
    Row("lab 4 in rehearsal", "s", 180, 1, lambda: notebook_run("labs/04_the_pareto_front_of_your_gpu.ipynb")[0]),
    Row("lab 3 in rehearsal", "s", 180, 1, lambda: notebook_run("labs/03_awq_gptq_gguf_for_real.ipynb")[0]),
)


FORMATS = ("bench_codebooks", "bench_gguf", "bench_kquants")  # files beside this one, each with ROWS of Versus


def budgets(only: str) -> tuple[list[str], bool]:
    """A table row for each figure with a budget, and whether one is over it."""
    lines, over = [], False
    for row in (r for r in ROWS if only in r.name):
        median = statistics.median(row.measure() for _ in range(row.repeats))
        mark = "" if median <= row.budget else " **over**"
        over |= bool(mark)
        lines.append(f"| {row.name} | {median:.3g} {row.unit} | {row.budget:g} {row.unit}{mark} | {row.repeats} |")
        print(lines[-1], flush=True)
    return lines, over


def against_references(only: str) -> tuple[list[str], bool]:
    """A table row for each comparison with a reference library, and whether one falls short of its reach."""
    lines, short = [], False
    for row in (r for name in FORMATS for r in importlib.import_module(name).ROWS if only in r.name):
        result = measure(row)
        mark = "" if result.ratio >= row.reach else " **short**"
        short |= bool(mark)
        ours, theirs = (f"{side:.3g} {row.unit}" for side in (result.ours, result.theirs))
        ratio = f"{result.ratio:.2f}x"
        lines.append(f"| {row.name} | {ours} | {theirs} | {row.against} | {ratio} | {row.reach:g}x{mark} |")
        print(lines[-1], flush=True)
    return lines, short


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    args = parser.parse_args()
    lines, over = budgets(args.only)
    versus, short = against_references(args.only)
    if not args.only:
        where = (
            f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
            f"Python {platform.python_version()}"
        )
        page = [
            "# Benchmarks",
            "",
            f"Written by `make bench` on {time.strftime('%Y-%m-%d')}: {where}. Medians of whole processes.",
            "",
            "| what | median | budget | runs |",
            "|---|---|---|---|",
            *lines,
            "",
            "## Formats against the reference libraries",
            "",
            "Ours and theirs take turns in one run, in processes that are warm; medians. The ratio is theirs / ours.",
            "",
            "| what | ours | theirs | against | ratio | to reach |",
            "|---|---|---|---|---|---|",
            *versus,
            "",
        ]
        methods = ROOT / "docs/benchmarks_methods.md"
        page += ["Methods against the reference libraries: [benchmarks_methods.md](benchmarks_methods.md)."]
        assert methods.exists(), "python tools/bench_methods.py writes it"
        (ROOT / "docs/benchmarks.md").write_text("\n".join(page) + "\n", encoding="utf-8")
    sys.exit(1 if over or short else 0)


if __name__ == "__main__":
    main()
