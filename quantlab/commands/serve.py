"""`quantlab serve MODEL`: an OpenAI-compatible server on this machine, until Ctrl-C."""

from __future__ import annotations

import click


@click.command("serve")
@click.argument("model")
@click.option("--engine", default="llama.cpp", show_default=True, help="The program that serves the model.")
@click.option("--format", "fmt", metavar="NAME", help="GGUF format: bf16 (default), q8_0, q4_k_m, q2_k, ...")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on; without it, a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address; others are refused.")
@click.option("--context", type=click.IntRange(min=1), help="Tokens of context; else what the model was made for.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; without it, one for each physical core.")
def command(
    model: str, engine: str, fmt: str | None, port: int | None, host: str, context: int | None, threads: int | None
) -> None:
    """Serve MODEL (tiny, a folder, a Hub id or a .gguf file) until Ctrl-C.

    \b
    quantlab serve tiny --format q4_k_m
    quantlab ask "Once upon a time"          (in another terminal)
    """
    from rich.console import Console

    from quantlab.serve.server import Server
    from quantlab.serve.state import find

    console = Console(stderr=True)
    with console.status(f"preparing {model}") as status:

        def say(text: str) -> None:
            status.update(text)
            if not console.is_terminal and not text.startswith("waiting"):
                click.echo(text, err=True)

        server = Server(
            model, engine=engine, fmt=fmt, context=context, port=port or 0, host=host, threads=threads, say=say
        ).start()
    with server:
        state = find(server.url)
        click.echo(f"serving {state.model} at {server.url}")
        click.echo('ask it with:  quantlab ask "Once upon a time"      stop it with Ctrl-C')
        click.echo(f"other programs find the key in {state.path}, which only you can read")
        try:
            server.wait()
        except KeyboardInterrupt:
            click.echo("stopping")
