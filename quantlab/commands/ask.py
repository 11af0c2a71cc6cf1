"""`quantlab ask "..."`: the answer of a running server, token by token."""

from __future__ import annotations

import click


@click.command("ask")
@click.argument("question")
@click.option("--server", metavar="NAME|URL", help="Model name or address of a server; else the newest of yours.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=200, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True, help="0: the likeliest.")
def command(question: str, server: str | None, max_tokens: int, temperature: float) -> None:
    """Ask a running server, and print its answer as it comes."""
    from contextlib import closing

    from quantlab.serve.answers import connect

    begun = False
    with (
        connect(server) as line,
        closing(line.stream(question, max_tokens=max_tokens, temperature=temperature)) as answer,
    ):
        try:
            for piece in answer:
                begun = True
                click.echo(piece, nl=False)
        finally:
            if begun:
                click.echo()
