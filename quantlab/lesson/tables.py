"""Small tables in a notebook: HTML with a caption and header cells, and the same as plain text.

>>> Table(("part", "GB"), [("weights", 141.1), ("KV cache", 2.7)], "Llama-3-70B")
Llama-3-70B
part      GB
weights   141.1
KV cache  2.7
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from quantlab.lesson.claims import check
from quantlab.lesson.message import inline, number


@dataclass(frozen=True, repr=False)
class Table:
    """Rows under headings; numbers stand to the right, and are written with four significant digits."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __repr__(self) -> str:
        lines = [tuple(self.headings), *(tuple(map(_plain, row)) for row in self.rows)]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.headings))]
        text = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join([self.caption, *(line.rstrip() for line in text)]).lstrip("\n")

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="text-align:left">{html.escape(h)}</th>' for h in self.headings)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in self.rows)
        caption = f'<caption style="text-align:left;color:inherit">{inline(self.caption)}</caption>'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def claims_table(ids: Iterable[str]) -> Table:
    """Statement, verdict and our figure of these claims, computed now.

    >>> claims_table(["M11"]).rows[0][2]
    'does not hold'
    """
    rows = [(a.claim.id, a.claim.statement, a.verdict, a.figure or "") for a in map(check, ids)]
    return Table(("id", "the claim", "verdict", "our figure"), rows)


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _cell(value: Any) -> str:
    side = "right" if isinstance(value, int | float) else "left"
    return f'<td style="text-align:{side};vertical-align:top">{inline(_plain(value))}</td>'
