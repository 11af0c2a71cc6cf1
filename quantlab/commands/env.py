"""`quantlab env`: isolated environments for libraries that cannot live beside the others."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from quantlab.errors import QuantlabError, UsageError

if TYPE_CHECKING:
    from quantlab.backends.environments import Build, Environment, State


@click.group("env")
def command() -> None:
    """Make, list and remove isolated environments.

    GPTQModel and vLLM want other versions of torch and transformers than the rest of quantlab. Each lives in an
    environment of its own, made from a lock, and quantlab runs it there as a process.
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: name, status, folder, nbytes, versions, purpose.")
def show(as_json: bool) -> None:
    """The environments there are, and what each costs."""
    from quantlab.backends.environments import ENVIRONMENTS, state

    states = [state(environment) for environment in ENVIRONMENTS.values()]
    if as_json:
        click.echo(json.dumps([_row(one) for one in states], indent=1))
        return
    for one in states:
        click.echo(f"{one.environment.name:<10} {one.status:<10} {one.environment.purpose}")
        click.echo(f"{'':<21} {_where(one)}")


@command.command("create")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def create(name: str, yes: bool) -> None:
    """Make the environment NAME (gptqmodel or serve), or go on with a half-made one."""
    from quantlab.backends.environment_making import create as make
    from quantlab.backends.environments import find, state

    environment = find(name)
    build, found = environment.build(), state(environment)
    if found.status == "ready":
        click.echo(f"{name} is there: {_where(found)}")
        return
    click.echo(_announcement(environment, build, found.status))
    _consent("Make it?", yes)
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(f"making {name}") as status:

        def say(what: str) -> None:
            status.update(f"{name}: {what}")
            if not console.is_terminal and not what.startswith("fetching"):
                click.echo(f"{name}: {what}", err=True)

        try:
            made = make(environment, say)
        except KeyboardInterrupt:
            click.echo(f"quantlab: what is done stays; `quantlab env create {name}` goes on from there", err=True)
            raise
    click.echo(f"{name} is ready: {_where(made)}")


@command.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Delete the environment NAME."""
    from quantlab.backends.environment_making import remove as delete
    from quantlab.backends.environments import find

    environment = find(name)
    if environment.folder.exists():
        _consent(f"Delete {environment.folder}?", yes)
    click.echo(f"{name} is removed: {_size(delete(environment))} are free again")


def _consent(question: str, yes: bool) -> None:
    """As pip and conda: ask on a terminal, and do nothing unasked elsewhere."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on; add --yes to agree")
    click.confirm(question, default=True, abort=True)


def _announcement(environment: Environment, build: Build, status: str) -> str:
    """What it is, and what it takes, before anything begins."""
    torch = f", and torch {build.torch} in the build for this machine" if build.torch else ""
    lines = [
        f"{environment.name} {environment.purpose}",
        f"  holds     {environment.holds}",
        f"  installs  {build.packages} packages, each by its hash{torch}"
        + (f"; needs {build.needs}" if build.needs else ""),
        f"  cost      takes {_price(build)}",
        f"  where     {environment.folder}" + (f" ({status}: goes on with it)" if status != "not made" else ""),
    ]
    return "\n".join(lines)


def _price(build: Build) -> str:
    """Time and disk, as they were once measured."""
    cost = build.cost
    if cost is None:
        return "gigabytes of disk and minutes of downloads; on such a machine it was never measured, nor tried"
    return f"about {_time(cost.seconds)} and {_size(cost.nbytes)} of disk ({cost.where})"


def _where(found: State) -> str:
    """The second line of an environment in a list."""
    name = found.environment.name
    if not found.usable:
        try:
            price = _price(found.environment.build())
        except QuantlabError as error:
            return str(error)
        verb = "goes on with it" if found.status == "half made" else "makes it"
        return f"`quantlab env create {name}` {verb}: {price}"
    versions = ", ".join(f"{package} {version}" for package, version in found.made.get("versions", {}).items())
    text = f"{versions}; {_size(found.made.get('nbytes', 0))} in {found.environment.folder}"
    return text if found.status == "ready" else f"{text}; its lock has changed, `quantlab env create {name}` renews it"


def _row(found: State) -> dict[str, Any]:
    environment = found.environment
    return {
        "name": environment.name, "purpose": environment.purpose, "status": found.status,
        "folder": str(environment.folder), "made": found.made,
    }  # fmt: skip


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**29 else f"{nbytes / 2**20:.0f} MiB"


def _time(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
