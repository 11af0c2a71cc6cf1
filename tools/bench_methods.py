"""AWQ, GPTQ and their combination against the libraries: KL divergence, seconds, peak memory.

    python tools/bench_methods.py --work /tmp/bench --gptqmodel /path/to/env/bin/python

Each quantizer runs in a process of its own (tools/reference_quantizers), all of them on the same calibration tokens,
with the same group and asymmetric levels, embeddings and head kept. Their weights are then measured alike: KL
divergence to the bfloat16 model, on the bundled evaluation stories. What was done stays in --work and is not done
again, so that an hour of reference runs can be interrupted; delete a file there to repeat it. Seconds and memory mean
little on a busy machine: repeat those runs on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(__file__).resolve().parent / "reference_quantizers"
WINDOW = 512
WINDOWS = {"tiny": 32, "smollm2": 16}
GROUP = {"tiny": 128, "smollm2": 64}  # 576 inputs of SmolLM2 do not divide into 128
OURS = "with_quantlab.py"
SLOW = "with_autoawq.py"  # a minute and a half for each block of SmolLM2: with --blocks it quantizes no more
STATIC = "{'act_order': True, 'static_groups': True}"
GOAL = 0.85  # of the best reference's KL divergence: what the combined method is for


@dataclass(frozen=True)
class Runner:
    """One way to quantize: a script and its own arguments."""

    name: str
    script: str
    arguments: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether it is quantlab's."""
        return self.script == OURS


RUNNERS = (
    Runner("autoawq", "with_autoawq.py"),
    Runner("autoawq-duo", "with_autoawq.py", ("--duo",)),  # its default; ruins the weights on a CPU (docs/log.md)
    Runner("gptqmodel", "with_gptqmodel.py"),
    Runner("llmcompressor", "with_llmcompressor.py"),
    Runner("rtn", OURS, ("--method", "rtn", "--one-shot")),
    Runner("awq", OURS, ("--method", "awq", "--one-shot")),
    Runner("gptq", OURS, ("--method", "gptq", "--options", STATIC)),
    Runner("gptq_once", OURS, ("--method", "gptq", "--options", STATIC, "--one-shot")),
    Runner("awq_gptq", OURS, ("--method", "awq_gptq")),
)
PAIRS = (  # ours, theirs, how many times faster it should be
    ("awq", "autoawq", 3),
    ("gptq", "gptqmodel", 2),
    ("gptq", "llmcompressor", 2),
    ("gptq_once", "gptqmodel", 2),
    ("gptq_once", "llmcompressor", 2),
)


@dataclass(frozen=True)
class Subject:
    """A model, the calibration tokens for it, and where its results are kept."""

    name: str
    folder: Path
    work: Path
    blocks: int | None = None  # how many, from the first, are quantized; None is all of them

    @property
    def tokens(self) -> Path:
        """The calibration windows: the bundled stories end to end, a BOS before each, cut into windows."""
        path = self.work / f"{self.name}-tokens.json"
        if not path.exists():
            path.write_text(json.dumps(self._windows()), encoding="utf-8")
        return path

    def _windows(self) -> list[list[int]]:
        from transformers import AutoTokenizer

        from quantlab.models.samples import stories

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        ids: list[int] = []
        for text in stories():
            ids += [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        return [ids[at : at + WINDOW] for at in range(0, WINDOW * WINDOWS[self.name], WINDOW)]

    def result(self, runner: Runner, bits: int) -> Path:
        """Where the weights of a run are kept; its figures are beside them."""
        part = f"-first-{self.blocks}" if self.blocks and runner.script == SLOW else ""
        return self.work / f"{self.name}-{bits}-{runner.name}{part}.safetensors"

    def quantized(self, parameter: str) -> bool:
        """Whether the comparison takes this parameter from a run, and not from the original."""
        if "embed" in parameter or "lm_head" in parameter:
            return False
        found = re.search(r"\.layers\.(\d+)\.", parameter)
        return self.blocks is None or (found is not None and int(found[1]) < self.blocks)


def subject(name: str, work: Path, blocks: int | None = None) -> Subject:
    """The bundled model or SmolLM2."""
    from quantlab.models.bundled import tiny_folder
    from quantlab.models.smollm2 import smollm2_folder

    return Subject(name, tiny_folder() if name == "tiny" else smollm2_folder(), work, blocks)


def run(runner: Runner, on: Subject, bits: int, python: str, threads: int) -> dict[str, Any]:
    """Quantize in a process of its own, unless that was done before; seconds of its stages, of all, and peak MiB."""
    out = on.result(runner, bits)
    figures = out.with_suffix(".json")
    if figures.exists():
        found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
        return found
    command = [python, str(SCRIPTS / runner.script), str(on.folder), str(on.tokens), str(out),
               "--bits", str(bits), "--group", str(GROUP[on.name]), *runner.arguments]  # fmt: skip
    if on.blocks and runner.script == SLOW:
        command += ["--blocks", str(on.blocks)]
    began = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)},
        cwd=on.tokens.parent,
    )  # some leave logs where they run
    out.with_suffix(".log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{runner.name} failed, see {out.with_suffix('.log')}")
    found = json.loads(done.stdout.splitlines()[-1]) | {"process_s": time.perf_counter() - began, "threads": threads}
    figures.write_text(json.dumps(found), encoding="utf-8")
    return found


@dataclass(frozen=True)
class Measured:
    """KL divergence at each scored token [N], and the story that each belongs to."""

    kl: Tensor
    cluster: Tensor

    @property
    def mean(self) -> float:
        """Nats a token."""
        return float(self.kl.mean())

    @property
    def stderr(self) -> float:
        """Of the mean, with stories as the independent samples."""
        from quantlab.evaluate.statistics import clustered_stderr

        return clustered_stderr(self.kl, self.cluster)


def ratio(a: Measured, b: Measured) -> tuple[float, float]:
    """mean(a) / mean(b), and its standard error by the delta method: paired, token by token."""
    from quantlab.evaluate.statistics import clustered_stderr

    share = a.mean / b.mean
    return share, clustered_stderr((a.kl - share * b.kl) / b.mean, a.cluster)


def measure_all(
    on: Subject, runs: list[tuple[Runner, int]], text: Path | None
) -> Iterator[tuple[Runner, int, Measured]]:
    """The KL divergence of each run's weights, all on the same windows."""
    from safetensors.torch import load_file

    from quantlab.evaluate.logits import Baseline, TorchLogits
    from quantlab.evaluate.quality import measure
    from quantlab.evaluate.windows import evaluation_texts, make_windows
    from quantlab.models.load import load

    loaded = load(str(on.folder))
    windows = make_windows(evaluation_texts(text), loaded.tokenizer, on.folder, WINDOW)
    vocab: int = loaded.config.get_text_config().vocab_size
    baseline = Baseline(TorchLogits(loaded.model), windows, vocab, limit=6 * 2**30)
    kept = {name for name, _ in loaded.model.named_parameters() if on.quantized(name)}
    for runner, bits in runs:
        stored = load_file(on.result(runner, bits))
        assert kept <= stored.keys(), sorted(kept - stored.keys())[:1]
        found = measure(TorchLogits(loaded.model, {name: stored[name] for name in kept}), baseline)
        yield runner, bits, Measured(found.kl, found.cluster)


def rows(
    on: Subject, chosen: list[Runner], bits: list[int], python: dict[str, str], text: Path | None, threads: int
) -> Iterator[dict[str, Any]]:
    """One row a run: figures, KL divergence, and its ratio to the best reference's."""
    runs = [(runner, width) for width in bits for runner in chosen]
    figures = {(r.name, width): run(r, on, width, python.get(r.name, sys.executable), threads) for r, width in runs}
    found = {(r.name, width): one for r, width, one in measure_all(on, runs, text)}
    for runner, width in runs:
        theirs = {r.name: found[r.name, width] for r in chosen if not r.is_ours}
        best = min(theirs, key=lambda name: theirs[name].mean) if theirs else ""
        one, cost = found[runner.name, width], figures[runner.name, width]
        share, error = ratio(one, theirs[best]) if best else (float("nan"), float("nan"))
        yield {
            "model": on.name, "bits": width, "group": GROUP[on.name], "method": runner.name, "ours": runner.is_ours,
            "kl": one.mean, "kl_stderr": one.stderr,
            "best_reference": best, "kl_to_best": share, "kl_to_best_stderr": error,
            "quantize_s": cost["seconds"]["quantize"], "threads": cost["threads"], "cpu_s": cost["cpu_s"],
            "peak_mib": cost["peak_mib"],
        }  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: every run, then the races."""
    lines = [
        "| model | bits | method | KL, nats | of the best reference's | threads | CPU, s | peak, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        lines.append(
            f"| {row['model']} | {row['bits']} | {row['method']}{' (quantlab)' if row['ours'] else ''} "
            f"| {row['kl']:.4f} ± {row['kl_stderr']:.4f} | {row['kl_to_best']:.3f} ± {row['kl_to_best_stderr']:.3f} "
            f"| {row['threads']} | {row['cpu_s']:.0f} | {row['peak_mib']:.0f} |"
        )
    lines += ["", "| model | bits | ours | against | times faster | reach | KL, ours : theirs | peak, ours : theirs |",
              "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    by_key = {(row["model"], row["bits"], row["method"]): row for row in found}
    for (model, bits, method), ours in by_key.items():
        for a, b, reach in PAIRS:
            if method == a and (theirs := by_key.get((model, bits, b))):
                lines.append(
                    f"| {model} | {bits} | {a} | {b} | {theirs['cpu_s'] / ours['cpu_s']:.1f} | {reach} "
                    f"| {ours['kl'] / theirs['kl']:.3f} | {ours['peak_mib'] / theirs['peak_mib']:.2f} |"
                )
    return "\n".join(lines)


def head() -> str:
    """What the page says above its tables: when, where, with what."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "autoawq", "llmcompressor"))
    where = f"{platform.machine()}, {os.cpu_count()} cores, {versions}, gptqmodel 7.7.0 in an environment of its own"
    return "\n".join(
        (
            "# Methods against the reference libraries",
            "",
            f"Written by `tools/bench_methods.py` on {time.strftime('%Y-%m-%d')}: {where}.",
            "",
            "Same calibration tokens, groups and asymmetric levels; embeddings and head kept. KL divergence to the",
            "bf16 model on the bundled evaluation stories, with one standard error; the ratio to the best reference is",
            "paired by story. Seconds and memory are of one process each, one run, imports and loading included.",
            "Seconds are those spent on the CPU: other work on the machine changes them little.",
        )
    )


def main() -> None:
    """Run, measure, write."""
    names = [runner.name for runner in RUNNERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is done once")
    parser.add_argument("--models", nargs="+", default=list(WINDOWS), choices=list(WINDOWS))
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 3])
    parser.add_argument("--methods", nargs="+", default=names, choices=names)
    parser.add_argument(
        "--gptqmodel", help="the Python of an environment with gptqmodel; without it that row is left out"
    )
    parser.add_argument(
        "--blocks", type=int, help="compare models of which only the first so many blocks are quantized"
    )
    parser.add_argument("--threads", type=int, default=1, help="for each process")
    parser.add_argument("--text", type=Path, help="another evaluation text, .txt or .jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks_methods.json")
    args = parser.parse_args()
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    chosen = [r for r in RUNNERS if r.name in args.methods and (args.gptqmodel or r.name != "gptqmodel")]
    python = {"gptqmodel": args.gptqmodel} if args.gptqmodel else {}
    found = [
        row
        for name in args.models
        for row in rows(subject(name, args.work, args.blocks), chosen, args.bits, python, args.text, args.threads)
    ]
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(f"{head()}\n\n{table(found)}\n", encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
