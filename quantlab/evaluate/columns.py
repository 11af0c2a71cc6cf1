"""The columns of the comparison's tables: a heading, and what of a row stands beneath it.

Two tables: one tells formats apart (each made the usual way), the other tells apart who made them and how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantlab.evaluate.names import BASELINE

if TYPE_CHECKING:
    from quantlab.evaluate.report import Row


@dataclass(frozen=True)
class Column:
    """A heading, and a cell of each row; text stands to the left, figures to the right."""

    head: str
    cell: Callable[[Row], str]
    text: bool = False


def _figure(head: str, cell: Callable[[Row], str]) -> Column:
    """A column that has nothing to say of a row that was not measured."""
    return Column(head, lambda row: "-" if row.perplexity is None else cell(row))


_FORMAT = Column("format", lambda row: row.format, text=True)
_NAME = Column("format", lambda row: row.name, text=True)
_METHOD = Column("method", lambda row: row.method, text=True)
_BACKEND = Column("made by", lambda row: row.backend, text=True)
_MAKER = Column("made by", lambda row: row.backend if row.method == "none" else f"{row.backend}, {row.method}")
_BITS = _figure("bits/\nweight", lambda row: _number(row.bits_per_weight, ".2f"))
_MB = _figure("MB", lambda row: _number(row.nbytes, ".1f", 1e-6))
_PERPLEXITY = _figure("perplexity", lambda row: _number(row.perplexity, ",.2f"))
_CHANGE = _figure("change\n%", lambda row: _change(row))
_KL = _figure("KL from bf16\nnats a token", lambda row: _pair(row.kl_mean, "#.3g", row.kl_stderr, ".1g"))
_RANKED = _figure("KL from bf16\nnats a token  ", lambda row: f"{_KL.cell(row)} {_mark(row)}")
_SAME = _figure("same\ntop %", lambda row: _number(row.top1_agreement, ".1f", 100))
_TASK = _figure("task\n%", lambda row: _pair(row.task_accuracy, ".0f", row.task_stderr, ".0f", 100))
_SECONDS = _figure("quantize\ns", lambda row: _number(row.quantize_s, ".1f"))
_PEAK = _figure("peak\nMB", lambda row: _number(row.peak_bytes, ",.0f", 1e-6))

BY_FORMAT = (_NAME, _BITS, _MB, _PERPLEXITY, _CHANGE, _KL, _SAME, _TASK, _SECONDS, _MAKER)
BY_FORMAT_NARROW = BY_FORMAT[:-2]
_PREFILL = _figure("prompt\ntokens/s", lambda row: _spread(row.prefill_tps, row.prefill_range))
_DECODE = _figure("decode\ntokens/s", lambda row: _spread(row.decode_tps, row.decode_range))
_PREDICTED = _figure("decode,\nPREDICTED", lambda row: _number(row.decode_predicted, ",.0f"))
BY_SPEED = (_NAME, _BITS, _MB, _KL, _PREFILL, _DECODE, _PREDICTED)
BY_METHOD = (
    _METHOD, _BACKEND, _FORMAT, _BITS, _MB, _PERPLEXITY, _RANKED, _SAME, _TASK, _SECONDS, _PEAK,
)  # fmt: skip
BY_METHOD_NARROW = (_METHOD, _BACKEND, _FORMAT, _BITS, _RANKED)


def _spread(value: float | None, ends: tuple[float, float] | None) -> str:
    """The median and half of what lies between the slowest and the fastest."""
    return "-" if value is None or ends is None else f"{value:,.0f} ± {(ends[1] - ends[0]) / 2:,.0f}"


def _mark(row: Row) -> str:
    """`*` for the row that is nearest to the original, `=` for one that cannot be told apart from it."""
    return "*" if row.behind == 0 else "=" if row.tied else " "


def _change(row: Row) -> str:
    change = row.perplexity_change if row.format != BASELINE else None
    return _pair(change, "+.1f", row.perplexity_change_stderr, ".1f", 100)


def _number(value: float | None, style: str, scale: float = 1) -> str:
    return "-" if value is None else format(value * scale, style)


def _pair(value: float | None, style: str, stderr: float | None, stderr_style: str, scale: float = 1) -> str:
    return "-" if value is None else f"{_number(value, style, scale)} ± {_number(stderr, stderr_style, scale)}"
