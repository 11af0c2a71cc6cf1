"""Tokens a second of GGUF files on this machine, with their spread; and what the planner says beside them.

Measured by llama.cpp in a process of its own (quantlab.backends.llama_cpp_speed). The figure is the median of five
runs, the spread the smallest and the largest of them: two files differ in speed where their spreads do not touch.
PREDICTED is the roofline of this machine's own bandwidth, measured by copying: at batch 1 every token reads all weights
once, but for the table of embeddings where the output head is another one,

    seconds a token >= bytes that are read / bandwidth

so it is an upper bound of speed; what is below it, unpacking and arithmetic have taken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from quantlab.backends.llama_cpp_library import available
from quantlab.backends.llama_cpp_library import threads as torch_threads
from quantlab.checkpoints import gguf_read
from quantlab.errors import QuantlabError, UsageError
from quantlab.plan.detect import copy_bandwidth

REPEATS, PROMPT, GENERATE = 5, 512, 64
UNSTEADY = 0.25  # of the median: a machine whose runs lie further apart is busy with something else


@dataclass(frozen=True)
class Speed:
    """Tokens a second of each repetition, and how they were measured."""

    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    threads: int
    prompt: int = PROMPT
    generate: int = GENERATE

    @property
    def unsteady(self) -> bool:
        """Whether the runs lie so far apart that the machine must have had other work."""
        return any(max(runs) - min(runs) > UNSTEADY * median(runs) for runs in (self.prefill, self.decode))


def measure_speed(
    files: Mapping[str, Path],
    *,
    threads: int | None = None,
    prompt: int = PROMPT,
    generate: int = GENERATE,
    repeats: int = REPEATS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Speed]:
    """The speed of each GGUF file, by name. threads: as many as torch takes. Raises QuantlabError where one fails."""
    if not files:
        raise UsageError("no file was given, so there is no speed to measure")
    count = torch_threads() if threads is None else threads
    for what, value in (("threads", count), ("prompt", prompt), ("generate", generate), ("repeats", repeats)):
        if value < 1:
            raise UsageError(f"{what} must be at least 1, got {value}")
    if (problem := available()) is not None:
        raise QuantlabError(problem)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
    asked = {"threads": count, "prompt": prompt, "generate": generate, "repeats": repeats}
    for done, (name, one) in enumerate(_runs(files, asked), 1):
        runs[name].append((one["prefill"], one["decode"]))
        progress(done, repeats * len(files))
    return {
        name: Speed(tuple(p for p, _ in pairs), tuple(d for _, d in pairs), count, prompt, generate)
        for name, pairs in runs.items()
    }


def measure_batches(
    files: Mapping[str, Path],
    batches: Sequence[int],
    *,
    threads: int | None = None,
    generate: int = 16,
    repeats: int = 3,
) -> dict[str, dict[int, tuple[float, ...]]]:
    """Tokens a second of all texts together, for each file and each number of texts at once: one figure a repetition.

    Every text begins empty and grows by `generate` tokens; all get their next token in one step. Raises as
    `measure_speed` does.
    """
    if not files or not batches:
        raise UsageError("no file or no batch was given, so there is no speed to measure")
    count = torch_threads() if threads is None else threads
    for what, value in (
        ("threads", count),
        ("generate", generate),
        ("repeats", repeats),
        *(("batch", b) for b in batches),
    ):
        if value < 1:
            raise UsageError(f"{what} must be at least 1, got {value}")
    if (problem := available()) is not None:
        raise QuantlabError(problem)
    found: dict[str, dict[int, tuple[float, ...]]] = {name: dict.fromkeys(batches, ()) for name in files}
    asked = {"threads": count, "generate": generate, "repeats": repeats, "batches": list(batches)}
    for name, one in _runs(files, asked):
        found[name][one["batch"]] += (one["decode"],)
    return found


def _runs(files: Mapping[str, Path], asked: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the process of llama.cpp says, line by line, each with the name of its file."""
    names = list(files)
    asked = {"paths": [str(path.resolve()) for path in files.values()], **asked}
    command = [sys.executable, "-P", "-m", "quantlab.backends.llama_cpp_speed"]
    root = str(Path(__file__).resolve().parents[2])
    where = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=where
    ) as child:
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdin.write(json.dumps(asked) + "\n")
            child.stdin.close()
            for line in child.stdout:
                one = json.loads(line)
                yield names[one["at"]], one
            said = child.stderr.read().strip().splitlines()
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        why = said[-1] if said else f"it ended with code {child.returncode}"
        raise QuantlabError(f"the speed could not be measured: {why}; `quantlab doctor` says whether llama.cpp works")


def predicted_decode(path: Path, bandwidth: float | None = None) -> float:
    """PREDICTED tokens a second at batch 1 of a GGUF file: the roofline of a bandwidth, unless given this machine's."""
    return (copy_bandwidth() if bandwidth is None else bandwidth) / bytes_read(path)


def bytes_read(path: Path) -> int:
    """What a GGUF file's model reads for each token: every tensor, but the embeddings where the head is another one."""
    stored = {tensor.name: tensor.nbytes for tensor in gguf_read.tensors(path)}
    return sum(stored.values()) - (stored["token_embd.weight"] if "output.weight" in stored else 0)
