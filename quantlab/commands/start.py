"""quantlab start: open the lessons in JupyterLab."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("start")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--no-browser", is_flag=True, help="Print the link instead of opening it.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of JupyterLab; without it, the first free from 8888.")
@click.option("--lesson", type=click.IntRange(min=1), default=1, show_default=True, help="The lesson to open.")
def command(folder: Path | None, no_browser: bool, port: int | None, lesson: int) -> int:
    """Check this machine, and open the lessons in JupyterLab.

    With DIR, a working copy of the lessons and labs is laid out there first. Laying out again updates what you did not
    touch and keeps what you edited; a newer version of an edited notebook goes beside it as NAME.new.ipynb. To get a
    fresh copy of a notebook, delete it and start again.

    Without DIR, a checkout of the repository is opened in place (what `make lab` does), and an installed quantlab uses
    ~/quantlab.

    Ctrl-C ends JupyterLab and its kernels.
    """
    from quantlab.assets import bundled
    from quantlab.start.jupyter import Jupyter
    from quantlab.start.opening import find_lesson, prepare

    root = prepare(bundled("lessons").parent, folder, _say)
    notebook = find_lesson(root, lesson)
    _say("starting JupyterLab (a few seconds)")
    with Jupyter(root, notebook, port, browser=not no_browser) as lab:
        click.echo(lab.url)
        _say(f"Ctrl-C ends it; your work is in {root}")
        try:
            return lab.wait()
        except KeyboardInterrupt:
            _say("ending JupyterLab and its kernels")
            return 0


def _say(line: str) -> None:
    click.echo(f"quantlab: {line}", err=True)
