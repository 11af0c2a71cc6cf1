"""`quantlab loadtest`: many requests at a running server, and what each of them had to wait."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from quantlab.commands.progress import reporting
from quantlab.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from quantlab.serve.load import Limits, Load, Report
    from quantlab.serve.load.report import Percentiles
    from quantlab.serve.load.sweep import Measure


@click.command("loadtest")
@click.argument("server", metavar="[NAME|URL]", required=False)
@click.option("--rate", metavar="R[,R...]", help="Open loop: so many requests a second, whatever is answered.")
@click.option("--concurrency", metavar="N[,N...]", help="Closed loop: always so many requests on their way.")
@click.option("--requests", type=int, default=40, show_default=True, help="How many in all.")
@click.option(
    "--process",
    type=click.Choice(["poisson", "constant", "burst"]),
    default="poisson",
    show_default=True,
    help="Gaps between the requests of an open loop.",
)
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Prompts, a line each, or .jsonl.")
@click.option(
    "--prompt-tokens", type=int, metavar="N", help="Made prompts of exactly so many tokens; with --tokenizer."
)
@click.option("--tokenizer", metavar="MODEL", help="Whose tokenizer cuts them [default: the server's model].")
@click.option("--shared", type=int, default=0, metavar="N", help="The first N tokens of made prompts are all the same.")
@click.option("--output-tokens", type=int, default=64, show_default=True, help="Tokens of each answer at most.")
@click.option("--ignore-eos", is_flag=True, help="Ask for exactly so many (vLLM).")
@click.option("--warmup", type=int, default=1, show_default=True, help="Requests before the test, not counted.")
@click.option("--ttft", type=float, metavar="S", help="A good answer begins within S seconds ...")
@click.option("--tpot", type=float, metavar="S", help="... takes at most S for each later token ...")
@click.option("--e2e", type=float, metavar="S", help="... and ends within S.")
@click.option("--search", is_flag=True, help="From --rate on, search the highest rate that keeps the limits.")
@click.option("--usd-per-hour", type=float, metavar="USD", help="What the server costs: print dollars and a day.")
@click.option("--peak", type=float, default=1.0, metavar="X", help="The busiest hour against the mean, for the day.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all figures as JSON.")
def command(
    server: str | None,
    rate: str | None,
    concurrency: str | None,
    requests: int,
    process: str,
    prompts: Path | None,
    prompt_tokens: int | None,
    tokenizer: str | None,
    shared: int,
    output_tokens: int,
    ignore_eos: bool,
    warmup: int,
    ttft: float | None,
    tpot: float | None,
    e2e: float | None,
    search: bool,
    usd_per_hour: float | None,
    peak: float,
    json_file: Path | None,
) -> None:
    """Send requests to a server, by model name or address; without one, to the newest of yours.

    Times count from when a request was due, so that a server that stands still is seen to. Errors are counted, never
    dropped. Several rates or concurrencies, as in 1,2,4,8, are a sweep. The key of a server that is not yours is read
    from QUANTLAB_API_KEY.
    """
    from quantlab.serve.load import Limits, Sized, loadtest

    if prompts is not None and prompt_tokens is not None:
        raise UsageError("give --prompts or --prompt-tokens, not both")
    loads = _loads(requests, rate, concurrency, process)
    limits = Limits(ttft, tpot, e2e)
    if search:
        _check_search(loads, limits)
    if usd_per_hour is not None:
        Sized(1.0, 1.0, usd_per_hour, peak)  # wrong numbers are named before the test, not after it
    url, key, model = _where(server)
    asked = _prompts(prompts, prompt_tokens, tokenizer or model, shared, requests)
    options = {"ignore_eos": True} if ignore_eos else {}

    def measure(load: Load) -> Report:
        with reporting("loadtest", "sending", 34, lambda what: load.words()) as say:

            def progress(done: int, total: int, errors: int) -> None:
                say(f"{done} of {total} answered" + (f", {errors} errors" if errors else ""), done / total)

            return loadtest(
                url, key, asked, load, max_tokens=output_tokens, options=options, warmup=warmup, limits=limits,
                progress=progress,
            )  # fmt: skip

    _show(measure, loads, search, None if usd_per_hour is None else (usd_per_hour, peak), json_file)


def _loads(requests: int, rate: str | None, concurrency: str | None, process: str) -> list[Load]:
    """One load for each rate or concurrency; four at once where neither was given."""
    from quantlab.serve.load import Load

    if rate is not None and concurrency is not None:
        raise UsageError("give a rate (requests a second) or a concurrency (requests at once), one of the two")
    if rate is not None:
        return [Load(requests, rate=one, process=process) for one in _numbers("--rate", rate, float)]
    many = _numbers("--concurrency", concurrency, int) if concurrency is not None else [4]
    return [Load(requests, concurrency=one, process=process) for one in many]


Number = TypeVar("Number", int, float)


def _numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise UsageError(f"{option} takes {what} with commas between them, as in 1,2,4; got {text!r}") from error


def _check_search(loads: list[Load], limits: Limits) -> None:
    """A search has one rate to begin with, and something to keep."""
    if len(loads) != 1 or not loads[0].is_open:
        raise UsageError("--search begins at one --rate; give just one")
    if limits == type(limits)():
        raise UsageError("--search needs a limit to keep: --ttft, --tpot or --e2e")


def _show(
    measure: Measure, loads: list[Load], search: bool, money: tuple[float, float] | None, json_file: Path | None
) -> None:
    """Measure, print, and write the figures where they were asked for."""
    from rich.console import Console

    from quantlab.atomic import write_text
    from quantlab.serve.load import Sized, highest_rate, sweep

    console = Console()
    found = highest_rate(measure, loads[0]) if search else None
    reports = list(found.tried) if found else sweep(measure, loads)
    one = reports[0] if len(reports) == 1 else None
    console.print(table(one) if one else sweep_table(reports))
    if words := sentence(one) if one else found.words() if found else "":
        console.print(words, soft_wrap=True)
    if json_file is not None:
        text = one.to_json() if one else json.dumps([report.to_dict() for report in reports], indent=1)
        write_text(json_file, text + "\n")
        click.echo(f"wrote {json_file}", err=True)
    best = found.kept if found else max(reports, key=lambda report: report.goodput)
    if money is not None and best is not None:
        console.print(Sized.of(best, *money).words(), soft_wrap=True)


def _where(server: str | None) -> tuple[str, str | None, str]:
    """Address, key and model of a running server, or of one by its address."""
    from quantlab.serve.address import api_url
    from quantlab.serve.state import find, running

    url = api_url(server) if server and "://" in server else None
    if url and all(state.url != url for state in running()):
        return url, os.environ.get("QUANTLAB_API_KEY"), ""
    state = find(url or server)
    return state.url, state.key, state.model


def _prompts(file: Path | None, tokens: int | None, tokenizer: str, shared: int, count: int) -> list[str]:
    from quantlab.serve.load import prompts

    if file is not None:
        return prompts.of_file(file)
    if tokens is None:
        from quantlab.models.samples import openings

        return openings()
    if not tokenizer:
        raise UsageError("--prompt-tokens needs --tokenizer MODEL, since the server's model is not known")
    from transformers import AutoTokenizer

    from quantlab.models.load import resolve

    return prompts.made(AutoTokenizer.from_pretrained(resolve(tokenizer).folder), min(count, 1000), tokens, shared)


def table(report: Report) -> Table:
    """Times in milliseconds: mean and percentiles."""
    from rich.table import Table

    found = Table(title=f"{report.model}: {report.load.words()}", title_justify="left")
    for column in ("milliseconds", "mean", "p50", "p90", "p95", "p99"):
        found.add_column(column, justify="left" if column == "milliseconds" else "right")
    rows: tuple[tuple[str, Percentiles], ...] = (
        ("to the first token", report.ttft), ("a later token", report.tpot), ("between tokens", report.itl),
        ("whole answer", report.e2e), ("sent late by", report.late),
    )  # fmt: skip
    for name, values in rows:
        cells = (values.mean, values.p50, values.p90, values.p95, values.p99)
        found.add_row(name, *("-" if value is None else f"{1000 * value:,.1f}" for value in cells))
    return found


def sweep_table(reports: Sequence[Report]) -> Table:
    """A line a load; a star marks the front: no other load gives as much with as short a wait."""
    from rich.table import Table

    from quantlab.serve.load import front

    best = front(reports)
    found = Table(
        title=f"{reports[0].model}: {len(reports)} loads; times are 95th percentiles; * the front", title_justify="left"
    )
    for column in ("load", "answers/s", "tokens/s", "first, ms", "later, ms", "whole, s", "good",
                   "errors"):  # fmt: skip
        found.add_column(column, justify="left" if column == "load" else "right", no_wrap=column == "load")
    for one in reports:
        times = [(one.ttft.p95, 1000), (one.tpot.p95, 1000), (one.e2e.p95, 1)]
        load = f"{one.load.rate:.3g} a second" if one.load.rate else f"{one.load.concurrency} at once"
        found.add_row(
            f"{load} *" if one in best else load, f"{one.requests_per_s:.2f}", f"{one.tokens_per_s:,.1f}",
            *("-" if value is None else f"{scale * value:,.{1 if scale > 1 else 2}f}" for value, scale in times),
            f"{one.good_share:.0%}", str(sum(one.errors.values())),
        )  # fmt: skip
    return found


def sentence(report: Report) -> str:
    """Throughput, errors and goodput in words."""
    words = (
        f"{report.answered} of {report.sent} answered in {report.seconds:.1f} s: {report.requests_per_s:.2f} answers "
        f"and {report.tokens_per_s:.1f} tokens a second."
    )
    if report.errors:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.errors.items())
        words += f" Errors: {kinds}."
    if report.limits is not None and any((report.limits.ttft_s, report.limits.tpot_s, report.limits.e2e_s)):
        words += f" Good within the limits: {report.good} ({report.goodput:.2f} a second)."
    return words
