"""`quantlab verify DIR_OR_GGUF`: is a checkpoint whole, and does everything in it agree?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@click.command("verify")
@click.argument("path", metavar="DIR_OR_GGUF", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Headers, config and tokenizer only; no weight is read.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs: {kind, ok, checks: [...]}.")
def command(path: Path, quick: bool, as_json: bool) -> int:
    """Check a model folder or a GGUF file before any server loads it.

    AWQ, GPTQ, compressed-tensors, bitsandbytes, plain 16 bits and GGUF, whoever made it. Nothing is unpickled or run.

    \b
    quantlab verify llama-awq
    quantlab verify model.gguf --quick

    Exit code 0 when all is well, 1 with a sentence for each fault, the most telling first.
    """
    from rich.console import Console

    from quantlab.checkpoints.verify import verify

    with _progress() as progress:
        verified = verify(path, quick=quick, progress=progress)
    if as_json:
        click.echo(verified.to_json())
    else:
        Console(highlight=False).print(verified.table())
    for fault in verified.faults:
        click.echo(f"quantlab: {fault}", err=True)
    return 0 if verified.ok else 1


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, and nothing elsewhere: a check says what it found, not what it read."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, share: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("headers", total=1.0)
        yield lambda what, share: bar.update(task, description=what[-40:], completed=share)
