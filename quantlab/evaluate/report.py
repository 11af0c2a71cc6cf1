"""The comparison as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from quantlab.evaluate.columns import BY_FORMAT, BY_FORMAT_NARROW, BY_METHOD, BY_METHOD_NARROW, BY_SPEED, Column
from quantlab.evaluate.names import BASELINE, LLAMA_CPP
from quantlab.evaluate.passport import Passport
from quantlab.evaluate.statistics import LEVEL, holm

if TYPE_CHECKING:
    from rich.table import Table

_ENGINE = (
    "llama.cpp quantizes embeddings and output head as well, and rounds activations (to 8 bits for quantized weights): "
    "that is part of its figures; f16 is the same weights as bf16."
)
_RANKING = (
    f"* is the lowest KL divergence; = cannot be told apart from it: chance alone would part them as far more often "
    f"than {LEVEL:.0%} (the signs of the stories' differences flipped at random)."
)
_COSTS = (
    "quantize and peak: for a library its whole process, which loads the model and saves it; for quantlab calibration, "
    "codes and scales, and the memory that these took beside the model."
)


@dataclass(frozen=True)
class Row:
    """One format, measured; every figure is None where it could not be applied, and `note` says why.

    name              how it was asked for; format, method and backend are what that means
    bits_per_weight   stored bytes * 8 / weights, over the linear layers inside the model, for every backend alike:
                      codes, scales, zero points and block minima; not embeddings, output head and norms
    nbytes            the whole model: for llama.cpp the size of the GGUF file; otherwise the quantized layers and all
                      other tensors in bfloat16 (a tied table counts once), without headers and tokenizer
    perplexity        on the passport's text; `perplexity_stderr` and all other errors are clustered by story
    kl_mean           KL(baseline || this) in nats a token
    top1_agreement    share of positions with the same most likely token as the baseline
    task_accuracy     share of the task's items answered right (log-probability for each letter: acc_norm); `task_p`:
                      how often chance would part it as far from the baseline's, item by item; task_acc: undivided
    perplexity_change relative to the baseline: 0.02 is 2% more; its error is that of the paired difference, much
                      smaller than the errors of the two perplexities, which are mostly the stories' own variety
    quantize_s        seconds to make codes and scales; neither loading, converting to GGUF nor dequantizing, unless a
                      library made a checkpoint in a process of its own: then loading and saving as well
    peak_bytes        memory that making it took, where that was looked at: beside the model, or of the whole process
    prefill_tps       tokens a second of a prompt at once, and of one token after the other (`decode_tps`), by
                      llama.cpp: the median of the repetitions, and `..._range` the slowest and the fastest.
                      decode_predicted is the roofline of this machine's measured bandwidth
    behind            how much more KL divergence than the best row of the table, with the error of the paired
                      difference, and how often chance would part the two as far (`behind_p`)
    """

    name: str
    format: str
    method: str
    backend: str
    bits_per_weight: float | None = None
    nbytes: int | None = None
    perplexity: float | None = None
    kl_mean: float | None = None
    kl_stderr: float | None = None
    top1_agreement: float | None = None
    task_accuracy: float | None = None
    quantize_s: float | None = None
    peak_bytes: int | None = None
    perplexity_stderr: float | None = None
    perplexity_change: float | None = None
    perplexity_change_stderr: float | None = None
    top1_stderr: float | None = None
    task_stderr: float | None = None
    behind: float | None = None
    behind_stderr: float | None = None
    behind_p: float | None = None
    task_p: float | None = None
    task_acc: float | None = None
    task_acc_stderr: float | None = None
    prefill_tps: float | None = None
    prefill_range: tuple[float, float] | None = None
    decode_tps: float | None = None
    decode_range: tuple[float, float] | None = None
    decode_predicted: float | None = None
    note: str = ""

    @property
    def tied(self) -> bool:
        """Whether it cannot be told apart from the best row."""
        return self.behind_p is not None and self.behind_p >= LEVEL


ENDINGS = "story endings"


@dataclass(frozen=True)
class Runs:
    """How speed was measured: tokens of a prompt, tokens made, repetitions, threads; bytes a second that copying moves.

    unsteady: names whose repetitions lie far apart.
    """

    prompt: int
    generate: int
    repeats: int
    threads: int
    bandwidth: float
    unsteady: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """Questions with choices: what they are, and how many."""

    name: str = ENDINGS
    items: int = 0


@dataclass(frozen=True)
class Comparison:
    """What `quantlab compare` measured. `by_method`: methods and libraries compete, and the best of them is marked."""

    model: str
    passport: Passport
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()  # sentences: what was asked for and could not be measured here
    by_method: bool = False
    task: Task = Task()
    runs: Runs | None = None
    front: tuple[str, ...] = ()  # names that no other row is better than
    advice: str = ""

    @property
    def baseline(self) -> Row:
        """The row that all others are compared with."""
        return self.row(BASELINE)

    def row(self, name: str) -> Row:
        """The row of a name, as it was asked for."""
        return {row.name: row for row in self.rows}[name]

    @property
    def spread(self) -> float:
        """From the fewest to the most bits a weight, the baseline left out."""
        bits = [row.bits_per_weight for row in self.rows if row.name != BASELINE and row.bits_per_weight is not None]
        return max(bits, default=0) - min(bits, default=0)

    def to_dict(self) -> dict[str, Any]:
        """{model, passport, task, speed, front, advice, rows}, plain values only."""
        return {
            "model": self.model,
            "passport": self.passport.to_dict(),
            "task": asdict(self.task),
            "speed": None if self.runs is None else asdict(self.runs),
            "front": list(self.front),
            "advice": self.advice,
            "rows": [
                {**{key: _plain(value) for key, value in asdict(row).items()}, "tied": row.tied} for row in self.rows
            ],
        }

    def to_json(self) -> str:
        """The same as JSON text; a figure that does not exist is null."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def table(self, wide: bool = True) -> Table:
        """A table for the terminal or a notebook, of 120 columns at most; narrow, it fits 80 and leaves some out."""
        from rich.table import Table

        columns: tuple[Column, ...] = BY_FORMAT if wide else BY_FORMAT_NARROW
        if self.runs is not None:
            columns = BY_SPEED
        elif self.by_method:
            columns = BY_METHOD if wide else BY_METHOD_NARROW
        title = f"{self.model}: what each {'method' if self.by_method else 'format'} costs"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True)
        for column in columns:
            table.add_column(column.head, justify="left" if column.text else "right", no_wrap=True)
        for row in self.rows:
            cells = [column.cell(row) for column in columns]
            table.add_row(*cells, style="bold" if row.name == BASELINE else None)
        return table

    def _of_the_runs(self) -> str:
        """What the two columns of speed are."""
        runs = self.runs
        assert runs is not None
        busy = f" The machine was busy with something else at {', '.join(runs.unsteady)}." if runs.unsteady else ""
        return (
            f"Tokens/s of what llama.cpp runs, {runs.threads} threads: a prompt of {runs.prompt} tokens at once, then "
            f"{runs.generate} one by one; median of {runs.repeats}, ± half of the spread. PREDICTED: every token reads "
            f"all weights at the {runs.bandwidth / 1e9:.1f} GB/s that this machine copies; a file that fits the last "
            f"cache can be faster.{busy}"
        )

    def _of_the_task(self) -> str:
        """Which rows answer otherwise than the baseline does, beyond chance, with as many rows as there are in mind."""
        asked = {row.name: row.task_p for row in self.rows if row.name != BASELINE and row.task_p is not None}
        apart = ", ".join(name for name, below in holm(asked, LEVEL).items() if below) or "no row"
        return (
            f"Task: {self.task.name}, {self.task.items} items, an end scored by its log-probability for each letter. "
            f"Different from {BASELINE} beyond chance: {apart} (McNemar's test, Holm's correction)."
        )

    def notes(self) -> list[str]:
        """What a reader of the table must know, a sentence each."""
        passport = self.passport
        start = "starting with BOS" if passport.bos else "without BOS"
        return [
            f"Perplexity and KL divergence over {passport.tokens:,} tokens, windows of at most {passport.context} "
            f"{start}, no overlap; text {passport.text[:12]}, tokenizer {passport.tokenizer[:12]}.",
            "± is one standard error, clustered by story; the change in perplexity is paired, story by story. Bits per "
            "weight: the linear layers, scales included. MB: the whole model.",
            *([self._of_the_task()] if self.task.items else []),
            *([self._of_the_runs()] if self.runs else []),
            *([f"No other row is better than these: {', '.join(self.front)}."] if self.front else []),
            *([f"Recommended: {self.advice}"] if self.advice else []),
            *([_RANKING, _COSTS] if self.by_method else []),
            *([_ENGINE] if any(row.backend == LLAMA_CPP for row in self.rows) else []),
            *(f"{row.name}: {row.note}." for row in self.rows if row.note),
            *self.left_out,
        ]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
