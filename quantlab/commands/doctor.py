"""quantlab doctor: what can this machine do, and what is missing?"""

from __future__ import annotations

import json

import click

from quantlab.doctor import Report, Status, examine

_COLOUR = {Status.OK: "green", Status.NOTE: "cyan", Status.WARNING: "yellow", Status.FAILURE: "red"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs: {checks: [...], verdict: {...}}.")
def command(as_json: bool) -> int:
    """Check this machine: one line a check, each problem with its remedy, and what can be done here.

    Exit code 0 when the lessons can run, 1 when something they need is missing.
    """
    report = examine()
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
    else:
        show(report)
    return 0 if report.lessons.able else 1


def show(report: Report) -> None:
    """Print a report for a reader; the marks are words, so nothing is lost without colour."""
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        mark = click.style(f"{check.status.value:<7}", fg=_COLOUR[check.status])
        fix = f"  ->  {check.fix}" if check.fix else ""
        click.echo(f"{mark}  {check.name:<{width}}  {check.value}{fix}")
    click.echo()
    for verdict in report.verdict:
        able = click.style("yes" if verdict.able else "no", bold=True)
        click.echo(f"{verdict.name:<{width + 11}}{able}: {verdict.why}")
