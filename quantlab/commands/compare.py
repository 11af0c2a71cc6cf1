"""`quantlab compare MODEL`: what each format costs in quality, bytes and seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate.names import DEFAULT_FORMATS


@click.command("compare")
@click.argument("model")
@click.option("--formats", metavar="A,B,...", help=f"Formats to measure [default: {','.join(DEFAULT_FORMATS)}].")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the figures as JSON.")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw quality against bits.")
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="Measure on this .txt or .jsonl file.")
@click.option("--context", type=click.IntRange(min=16), metavar="TOKENS", help="Tokens in a window [default: 512].")
@click.option("--revision", metavar="REV", help="Branch, tag or commit, for a model of the Hub.")
@click.option("--trust-remote-code", metavar="MODEL", help="Name the model again to let its own code run.")
def command(
    model: str,
    formats: str | None,
    json_file: Path | None,
    picture: Path | None,
    text: Path | None,
    context: int | None,
    revision: str | None,
    trust_remote_code: str | None,
) -> None:
    """Quantize MODEL (tiny, a folder or a Hub id) in many formats and measure each against the original.

    \b
    quantlab compare tiny
    quantlab compare tiny --formats int4_g128,nf4,q4_k_m --json out.json
    """
    for target in (json_file, picture):
        if target is not None:
            _check_target(target)
    if picture is not None and picture.suffix.lower() != ".png":
        raise UsageError(f"--picture writes a PNG file; name it {picture.with_suffix('.png').name}")
    names = None if formats is None else [name.strip().lower() for name in formats.split(",") if name.strip()]
    if names == []:
        raise UsageError("--formats names no format; leave it out to measure the usual ones")

    from rich.console import Console

    from quantlab.atomic import new_file, write_text
    from quantlab.evaluate.compare import compare

    with _progress(model) as progress:
        result = compare(
            model, names, text=text, context=context, revision=revision,
            trust_remote_code=trust_remote_code or False, progress=progress,
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(result.table(wide=console.width >= 100))
    for note in result.notes():
        console.print(note, markup=False)
    if json_file is not None:
        write_text(json_file, result.to_json())
        console.print(f"figures: {json_file}", markup=False, soft_wrap=True)
    if picture is not None:
        from quantlab.plots import quality_vs_bits

        drawn = quality_vs_bits(result.to_dict()["rows"]).png()
        with new_file(picture) as temporary:
            temporary.write_bytes(drawn)
        console.print(f"picture: {picture}", markup=False, soft_wrap=True)


def _check_target(target: Path) -> None:
    """Fail before a minute of work, not after it."""
    folder = target.parent
    if not folder.is_dir():
        raise QuantlabError(f"cannot write {target}: there is no folder {folder}; make it or name another")
    if target.is_dir():
        raise QuantlabError(f"cannot write {target}: it is a folder; name a file in it")
    if not os.access(folder, os.W_OK):
        raise QuantlabError(f"cannot write {target}: the folder is not writable for you; choose one that is")


@contextmanager
def _progress(model: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on a terminal, one line a format elsewhere; both on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        said: set[str] = set()

        def say(what: str, share: float) -> None:
            if what not in said:
                said.add(what)
                click.echo(f"{model}: {what}", err=True)

        yield say
        return
    columns = (TextColumn("{task.description:<18}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)
