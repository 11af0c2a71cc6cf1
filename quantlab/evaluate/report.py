"""The comparison as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from quantlab.evaluate.names import BASELINE
from quantlab.evaluate.passport import Passport

if TYPE_CHECKING:
    from rich.table import Table

_HEADS = (
    "bits/\nweight", "MB", "perplexity", "change\n%", "KL from bf16\nnats a token", "same\ntop %", "endings\n%",
    "quantize\ns", "made by",
)  # fmt: skip

_ENGINE = (
    "llama.cpp quantizes embeddings and output head as well, and rounds activations (to 8 bits for quantized weights): "
    "that is part of its figures; f16 is the same weights as bf16."
)


@dataclass(frozen=True)
class Row:
    """One format, measured; every figure is None where it could not be applied, and `note` says why.

    bits_per_weight   stored bytes * 8 / weights, over the linear layers inside the model, for every backend alike:
                      codes, scales, zero points and block minima; not embeddings, output head and norms
    nbytes            the whole model: for llama.cpp the size of the GGUF file; otherwise the quantized layers and all
                      other tensors in bfloat16 (a tied table counts once), without headers and tokenizer
    perplexity        on the passport's text; `perplexity_stderr` and all other errors are clustered by story
    kl_mean           KL(baseline || this) in nats a token
    top1_agreement    share of positions with the same most likely token as the baseline
    task_accuracy     share of story endings told right (log-probability for each byte)
    perplexity_change relative to the baseline: 0.02 is 2% more; its error is that of the paired difference, much
                      smaller than the errors of the two perplexities, which are mostly the stories' own variety
    quantize_s        seconds to make codes and scales; neither loading, converting to GGUF nor dequantizing
    """

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
    perplexity_stderr: float | None = None
    perplexity_change: float | None = None
    perplexity_change_stderr: float | None = None
    top1_stderr: float | None = None
    task_stderr: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """What `quantlab compare` measured."""

    model: str
    passport: Passport
    rows: tuple[Row, ...]
    left_out: tuple[str, ...] = ()  # sentences: what was asked for and could not be measured here

    @property
    def baseline(self) -> Row:
        """The row that all others are compared with."""
        return next(row for row in self.rows if row.format == BASELINE)

    def row(self, fmt: str) -> Row:
        """The row of a format."""
        return {row.format: row for row in self.rows}[fmt]

    def to_dict(self) -> dict[str, Any]:
        """{model, passport, rows}, plain values only."""
        return {
            "model": self.model,
            "passport": self.passport.to_dict(),
            "rows": [{key: _plain(value) for key, value in asdict(row).items()} for row in self.rows],
        }

    def to_json(self) -> str:
        """The same as JSON text; a figure that does not exist is null."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    def table(self, wide: bool = True) -> Table:
        """A table for the terminal or a notebook; narrow, it fits 80 columns and leaves out the last two."""
        from rich.table import Table

        title = f"{self.model}: what each format costs"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True)
        table.add_column("format", no_wrap=True)
        for name in _HEADS if wide else _HEADS[:-2]:
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            cells = _cells(row)[: len(table.columns)]
            table.add_row(*cells, style="bold" if row.format == BASELINE else None)
        return table

    def notes(self) -> list[str]:
        """What a reader of the table must know, a sentence each."""
        passport = self.passport
        start = "starting with BOS" if passport.bos else "without BOS"
        return [
            f"Perplexity and KL divergence over {passport.tokens:,} tokens, windows of at most {passport.context} "
            f"{start}, no overlap; text {passport.text[:12]}, tokenizer {passport.tokenizer[:12]}.",
            "± is one standard error, clustered by story; the change in perplexity is paired, story by story. Bits per "
            "weight: the linear layers, scales included. MB: the whole model.",
            *([_ENGINE] if any(row.backend == "llama.cpp" for row in self.rows) else []),
            *(f"{row.format}: {row.note}." for row in self.rows if row.note),
            *self.left_out,
        ]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(row: Row) -> list[str]:
    maker = row.backend if row.method == "none" else f"{row.backend}, {row.method}"
    if row.perplexity is None:
        return [row.format, *["-"] * (len(_HEADS) - 1), maker]
    change = row.perplexity_change if row.format != BASELINE else None
    return [
        row.format,
        _number(row.bits_per_weight, ".2f"),
        _number(row.nbytes, ".1f", 1e-6),
        _number(row.perplexity, ",.2f"),
        _pair(change, "+.1f", row.perplexity_change_stderr, ".1f", 100),
        _pair(row.kl_mean, "#.3g", row.kl_stderr, ".1g"),
        _number(row.top1_agreement, ".1f", 100),
        _pair(row.task_accuracy, ".0f", row.task_stderr, ".0f", 100),
        _number(row.quantize_s, ".1f"),
        maker,
    ]


def _number(value: float | None, style: str, scale: float = 1) -> str:
    return "-" if value is None else format(value * scale, style)


def _pair(value: float | None, style: str, stderr: float | None, stderr_style: str, scale: float = 1) -> str:
    return "-" if value is None else f"{_number(value, style, scale)} ± {_number(stderr, stderr_style, scale)}"
