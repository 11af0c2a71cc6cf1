"""`quantlab explain LOG`: what a message of vLLM, CUDA, llama.cpp or the Hub means, and which knob to turn."""

from __future__ import annotations

from typing import TextIO

import click


@click.command("explain")
@click.argument("log", type=click.File(encoding="utf-8", errors="replace"), default="-")
def command(log: TextIO) -> int:
    """Say in words what went wrong in LOG, a file, or in what is piped in.

    \b
    quantlab explain vllm.log
    vllm serve model 2>&1 | quantlab explain

    Exit code 1 where no message is known.
    """
    from quantlab.serve.explain import explain

    meant = explain(log.read())
    if meant is None:
        click.echo("quantlab: no message in it is known; look for the last line that names an error", err=True)
        return 1
    click.echo(f"what happened:  {meant.happened}\nhow to mend it: {meant.mend}")
    return 0
