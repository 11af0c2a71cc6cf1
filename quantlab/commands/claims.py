"""`quantlab claims`: what the sources say about quantization, what we find, and how."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.panel import Panel
    from rich.table import Table

    from quantlab.lesson.claims import Answer

_COLOUR = {"holds": "green", "holds if": "yellow", "does not hold": "red", "measured": "cyan", "open": "dim"}


@click.command(name="claims")
@click.argument("claim_id", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: id, source, lesson, verdict, figure, how.")
def command(claim_id: str | None, as_json: bool) -> None:
    """Check the claims that this course meets: each one computed, measured, or still open.

    With an ID such as M6, everything about that claim.
    """
    from rich.console import Console

    from quantlab.lesson import claims as ledger

    with Console(stderr=True).status("Checking: some claims are measured on the bundled model, now"):
        answers = [ledger.check(claim_id)] if claim_id else ledger.check_all()
    if as_json:
        rows = [answer.to_json() for answer in answers]
        click.echo(json.dumps(rows[0] if claim_id else rows, indent=2, ensure_ascii=False))
        return
    Console().print(_one(answers[0]) if claim_id else _all(answers))


def _verdict(answer: Answer) -> str:
    return f"[{_COLOUR[answer.verdict]}]{answer.verdict}[/]"


def _all(answers: list[Answer]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from quantlab.lesson.claims import SOURCES

    waiting = sum(answer.verdict == "open" for answer in answers)
    sources = "; ".join(f"{letter}: {name}" for letter, name in SOURCES.items())
    table = Table(
        title="The claims ledger",
        caption=f"{len(answers) - waiting} answered, {waiting} open. {sources}. More: quantlab claims M6",
        show_lines=True,
    )
    for column in ("id", "from", "claim", "verdict", "our figure"):
        table.add_column(column, overflow="fold")
    for answer in answers:
        about, found = answer.claim, answer.figure or answer.how
        table.add_row(about.id, about.source, escape(about.statement), _verdict(answer), escape(found))
    return table


def _one(answer: Answer) -> Panel:
    from rich.markup import escape
    from rich.panel import Panel

    about = answer.claim
    lines = [f"[italic]{escape(about.statement)}[/]", f"    {about.source_names}", "", f"verdict: {_verdict(answer)}"]
    if answer.figure:
        lines.append(f"figure: {escape(answer.figure)}")
    lines += [f"how: {escape(answer.how)}"]
    return Panel("\n".join(lines), title=f"{about.id}, lesson {about.lesson}", expand=False)
