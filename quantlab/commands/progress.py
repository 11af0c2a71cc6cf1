"""Progress of a long command: a bar on a terminal, a line for each new thing elsewhere; both on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def reporting(
    title: str, first: str, width: int, row: Callable[[str], str] = lambda what: what
) -> Iterator[Callable[[str, float | None], None]]:
    """Yields say(what, share): what is being done, and the share of the whole that is done (None: not known).

    first: what stands there before anything was said. width: of the description, in characters. row: of what is said,
    the part that is worth a line where there is no bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        said: set[str] = set()

        def say(what: str, share: float | None) -> None:
            line = row(what)
            if line not in said:
                said.add(line)
                click.echo(f"{title}: {line}", err=True)

        yield say
        return
    columns = (TextColumn(f"{{task.description:<{width}}}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(first, total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)
