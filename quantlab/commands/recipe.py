"""`quantlab recipe GPU`: which model the labs take on a card, which formats run there, and what to type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantlab.errors import QuantlabError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from quantlab.plan.lab_recipes import Recipe


@click.command("recipe")
@click.argument("gpu", default="auto")
@click.option(
    "--check", type=click.Path(path_type=Path), metavar="DIR", help="Compare a download with the pinned files."
)
@click.option(
    "--line", type=float, default=200.0, show_default=True, metavar="MBIT", help="Your line, in Mbit a second."
)
def command(gpu: str, check: Path | None, line: float) -> None:
    """The labs' recipe for GPU (t4, l4, rtx-4090, a100-80, ...; `auto`: this machine's).

    \b
    quantlab recipe l4
    quantlab recipe l4 --check models/qwen3-8b
    """
    from rich.console import Console

    from quantlab.plan.lab_recipes import recipe

    if not 0.1 <= line <= 1e6:
        raise UsageError(f"--line is your line's speed in Mbit a second, 0.1 to 1,000,000; got {line:g}")
    found = recipe(gpu, line)
    if check is not None:
        _check(found, check)
        return
    console = Console()
    console.print(table(found))
    console.print(sentence(found), soft_wrap=True)
    click.echo(f"\n{found.commands()}")


def table(found: Recipe) -> Table:
    """A row a format."""
    from rich.table import Table

    from quantlab.plan.lab_recipes import CONTEXT

    shown = Table(
        title=f"PREDICTED: {found.model} on {found.card.label}", title_justify="left", caption_justify="left",
        caption=f"GB: weights; context: of one text, at most; texts: of {CONTEXT:,} tokens at once;\n"
        "tokens/s: one text, at best (the roofline); nf4 is run by transformers, the others by vLLM",
    )  # fmt: skip
    for column in ("format", "runs", "GB", "KV", "context", "texts", "tokens/s"):
        words = column in ("format", "runs", "KV")
        shown.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=column != "runs")
    for one in found.choices:
        cells = (f"{one.context:,}", f"{one.at_once:,}", f"{one.tokens_per_s:,.0f}")
        figures = (f"{one.weights_bytes / 1e9:.1f}", one.kv, *cells) if one.runs else ("",) * 5
        shown.add_row(one.fmt, one.words if one.runs else one.why, *figures)
    return shown


def sentence(found: Recipe) -> str:
    """The model, its licence, what it takes of the machine, and what else the card would hold."""
    source, (stretch, how), gated = found.source, found.stretch, found.gated
    price = found.card.price_per_hour
    cost = f"; ${price.usd:g} an hour ({price.source}, {price.date})" if price else ""
    return (
        f"{source.repository} at {source.revision[:12]}, {source.licence}, ungated: {found.download_gb:.1f} GB, "
        f"{found.download_minutes:.0f} minutes at {found.line_mbit_per_s:g} Mbit a second. To quantize it the machine "
        f"needs {found.disk_gb:.0f} GB of disk and {found.host_gb:.0f} GB of its own memory{cost}. The card alone "
        f"would hold the original of {found.largest}, and {stretch} in {how.fmt}"
        + (f"; of the gated models {gated[0]} in {gated[1].fmt}." if gated else ".")
    )


def _check(found: Recipe, folder: Path) -> None:
    if not folder.is_dir():
        raise QuantlabError(f"{folder} is no folder; download the model first, as `quantlab recipe` shows")
    if wrong := list(found.source.wrong(folder)):
        raise QuantlabError(f"{wrong[0]}{f', and {len(wrong) - 1} more' if len(wrong) > 1 else ''}; download it again")
    click.echo(
        f"{folder} holds the {len(found.source.files)} weight files of {found.source.repository} as they are pinned"
    )
