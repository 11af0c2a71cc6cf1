"""`quantlab serve MODEL`: an OpenAI-compatible server on this machine, until Ctrl-C."""

from __future__ import annotations

from typing import Any

import click


@click.command("serve")
@click.argument("model", required=False)
@click.option("--engine", default="llama.cpp", show_default=True, help="The program that serves the model.")
@click.option("--format", "fmt", metavar="NAME", help="GGUF format: bf16 (default), q8_0, q4_k_m, q2_k, ...")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; without it, a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address; others are refused.")
@click.option("--context", type=click.IntRange(min=1), help="Tokens of context; else what the model was made for.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; without it, one for each physical core.")
@click.option("--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Copies behind one address.")
@click.option("--router", default="quantlab", show_default=True, help="What stands before several: quantlab or nginx.")
@click.option("--list", "listing", is_flag=True, help="Show your servers that run, with their memory, and end.")
@click.option("--reclaim", is_flag=True, help="End what is left of servers whose supervisor is gone, and end.")
def command(
    model: str | None, engine: str, fmt: str | None, port: int | None, host: str, context: int | None,
    threads: int | None, replicas: int, router: str, listing: bool, reclaim: bool,
) -> None:  # fmt: skip
    """Serve MODEL (tiny, a folder, a Hub id or a .gguf file) until Ctrl-C.

    \b
    quantlab serve tiny --format q4_k_m
    quantlab ask "Once upon a time"          (in another terminal)
    """
    if (model is not None) + listing + reclaim != 1:
        raise click.UsageError("give a MODEL to serve, or --list, or --reclaim, one of them")
    if listing or reclaim:
        return _list() if listing else _reclaim()
    assert model is not None
    options = {"engine": engine, "fmt": fmt, "port": port or 0, "host": host, "context": context, "threads": threads}
    _serve(model, replicas, router, options)


def _list() -> None:
    from quantlab.serve.state import memory, running

    states = running()
    for state in states:
        click.echo(
            f"{state.model}  {state.engine}  {state.url}  {memory(state.id) / 2**20:,.0f} MiB  owner {state.owner.pid}"
        )
    if not states:
        click.echo("no server of yours is running; start one with: quantlab serve tiny")


def _reclaim() -> None:
    from quantlab.serve.state import reclaim

    ended = reclaim()
    click.echo(f"ended {len(ended)} left-over processes: {', '.join(ended)}" if ended else "nothing was left over")


def _serve(model: str, replicas: int, router: str, options: dict[str, Any]) -> None:
    from rich.console import Console

    from quantlab.serve.replicas import Replicas
    from quantlab.serve.server import Server
    from quantlab.serve.state import find

    console = Console(stderr=True)
    with console.status(f"preparing {model}") as status:

        def say(text: str) -> None:
            status.update(text)
            if not console.is_terminal and not text.startswith(("waiting", "planned")):
                click.echo(text, err=True)

        fleet = Replicas(model, replicas, router=router, **options, say=say) if replicas > 1 else None
        server = fleet.router if fleet else Server(model, **options, say=say)
        whole = fleet or server
        whole.start()
    with whole:
        state = find(server.url)
        click.echo(f"serving {state.model} at {server.url}")
        for line in filter(None, (server.planned, server.meaning)):
            click.echo(line)
        click.echo('ask it with:  quantlab ask "Once upon a time"      stop it with Ctrl-C')
        click.echo(f"other programs find the key in {state.path}, which only you can read")
        try:
            server.wait()
        except KeyboardInterrupt:
            click.echo("stopping")
