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

    shown = Table(
        title=f"PREDICTED: {found.model} on {found.card.label}", title_justify="left", caption_justify="left",
        caption="tokens a second: one text, at best (the roofline); context: of one text, at most",
    )  # fmt: skip
    for column in ("format", "runs", "weights, GB", "KV", "context", "tokens/s"):
        shown.add_column(column, justify="left" if column in ("format", "runs", "KV") else "right", overflow="fold")
    for one in found.choices:
        figures = (f"{one.weights_bytes / 1e9:.1f}", one.kv, f"{one.context:,}", f"{one.tokens_per_s:,.0f}")
        shown.add_row(one.fmt, one.how.value if one.runs else one.why, *(figures if one.runs else ("", "", "", "")))
    return shown


def sentence(found: Recipe) -> str:
    """The model, its licence, the download, and the largest model that would fit."""
    source, (stretch, how) = found.source, found.stretch
    price = found.card.price_per_hour
    cost = f"; ${price.usd:g} an hour ({price.source}, {price.date})" if price else ""
    return (
        f"{source.repository} at {source.revision[:12]}, {source.licence}, ungated: {found.download_gb:.1f} GB, "
        f"{found.download_minutes:.0f} minutes at {found.line_mbit_per_s:g} Mbit a second, {found.disk_gb:.1f} GB of "
        f"disk with the quantized copy{cost}. The largest of the labs' models that fits in some format: {stretch} in "
        f"{how.fmt}."
    )


def _check(found: Recipe, folder: Path) -> None:
    if not folder.is_dir():
        raise QuantlabError(f"{folder} is no folder; download the model first, as `quantlab recipe` shows")
    if not found.source.files:
        raise QuantlabError(
            f"no hashes are kept for {found.source.repository}: its revision pins it, and the Hub's client has checked "
            "each file against it; `quantlab verify` looks into the files"
        )
    if wrong := list(found.source.wrong(folder)):
        raise QuantlabError(f"{wrong[0]}{f', and {len(wrong) - 1} more' if len(wrong) > 1 else ''}; download it again")
    click.echo(
        f"{folder} holds the {len(found.source.files)} weight files of {found.source.repository} as they are pinned"
    )
