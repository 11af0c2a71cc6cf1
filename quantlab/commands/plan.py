"""`quantlab plan MODEL`: will it fit, what else would, and what are the ways out?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantlab.errors import QuantlabError, UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from quantlab.plan.gguf_files import Stored
    from quantlab.plan.report import Plan
    from quantlab.plan.shapes import ModelShape

_HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")
_PICTURED = ("t4", "rtx-4090", "l40s", "a100-80", "h200")  # beside the GPU that was asked for


@click.command("plan")
@click.argument("model")
@click.option("--gpu", metavar="NAME", help="Such as a10, rtx-4090, h100, m4-max, cpu, auto; else: which GPUs hold it.")
@click.option("--format", "fmt", metavar="F", help="awq-int4, fp8, nf4, q4_k_m, ... [default: bf16, or the file's own]")
@click.option("--context", type=int, metavar="TOKENS", help="Longest text [default: 4096].")
@click.option("--concurrency", type=int, default=1, show_default=True, metavar="N", help="Texts answered at once.")
@click.option("--kv-dtype", default="auto", show_default=True, metavar="T", help="bf16, fp8; llama.cpp: q8_0, q4_0.")
@click.option("--gpus", type=int, default=1, show_default=True, metavar="N", help="How many GPUs of that kind.")
@click.option("--utilization", type=float, metavar="SHARE", help="Of a GPU, for the engine [default: vLLM's 0.92].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in bytes.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw it.")
def command(
    model: str,
    gpu: str | None,
    fmt: str | None,
    context: int | None,
    concurrency: int,
    kv_dtype: str,
    gpus: int,
    utilization: float | None,
    as_json: bool,
    save: Path | None,
) -> None:
    """Count the memory of MODEL (a name, a config.json, its folder, a GGUF file, or owner/name of the Hub) on a GPU.

    \b
    quantlab plan llama-3.3-70b --gpu a10 --format awq-int4 --context 4096
    quantlab plan qwen3-8b --context 32768 --concurrency 8      which GPUs hold it
    quantlab plan ./my-model --gpu l4 --format q4_k_m --kv-dtype q8_0 --json
    quantlab plan ./model-q4_k_m.gguf --gpu rtx-4090           its weights to the byte
    """
    from quantlab.plan.report import plan

    if save is not None and save.suffix.lower() != ".png":
        raise UsageError(f"--save writes a PNG file; name it {save.with_suffix('.png').name}")
    shape, stored = _of_a_file(Path(model)) if Path(model).suffix == ".gguf" else (_shape(model), None)
    answer = plan(
        shape, gpu, fmt or (stored.fmt if stored else "bf16"), context, concurrency,
        kv_dtype=kv_dtype, gpus=gpus, utilization=utilization, stored=stored,
    )  # fmt: skip
    if save is not None:
        _draw(answer, save)
    if as_json:
        click.echo(json.dumps(answer.to_dict(), indent=2))
        return
    _print(answer)
    if save is not None:
        click.echo(f"picture: {save}")


def _shape(model: str) -> ModelShape:
    """The shape by name or path; only what is neither and looks like owner/name is asked of the Hub."""
    from quantlab.plan.models import canonical, read_config, shape_of

    path = Path(model)
    if canonical(model) or path.exists() or path.suffix == ".json" or not _HUB_ID.fullmatch(model):
        return shape_of(model)
    from quantlab.models.hub import fetch_config

    return read_config(fetch_config(model), name=model)


def _of_a_file(path: Path) -> tuple[ModelShape, Stored]:
    """What a GGUF file's head says: the shape of its model, its format, the bytes of its tensors."""
    from quantlab.formats.gguf_head import read_head
    from quantlab.plan.gguf_files import shape_from_gguf, stored_as

    head = read_head(path)
    nbytes = sum(tensor.nbytes for tensor in head.tensors.values())
    shape = shape_from_gguf(head.metadata, head.tensors.keys(), path.name)
    return shape, stored_as(head.metadata, nbytes, path.name)


def _print(answer: Plan) -> None:
    from rich.console import Console

    from quantlab.plan.report import verdict, way_sentence

    console = Console(highlight=False)
    console.print(_table(answer))
    console.print(
        verdict(answer), style={True: "green", False: "red"}.get(bool(answer.fits)) if answer.gpu_bytes else ""
    )
    setup = answer.setup
    if answer.fits:
        console.print(
            f"At most {answer.max_context:,} tokens for each of {setup.concurrency:,}, "
            f"or {answer.max_concurrency:,} texts of {setup.context:,} tokens at once."
        )
        if answer.better_format:
            console.print(f"{answer.better_format} would fit as well, with more bits a weight.")
    elif answer.ways:
        console.print("The cheapest ways out:" if setup.card else "The cheapest that hold it:")
        for number, way in enumerate(answer.ways, 1):
            console.print(f"  {number}. {way_sentence(way)}", markup=False)
        own = answer.same_card()
        if own is not None and own not in [way.setup for way in answer.ways]:
            usd = "" if own.usd_per_hour is None else f", ${own.usd_per_hour:,.2f} an hour"
            console.print(f"  Of {setup.card.label if setup.card else ''} it takes {own.gpus}{usd}.", markup=False)
    else:
        console.print("Nothing in the table holds it, up to 8 GPUs: take a smaller model.")
    for note in answer.notes():
        console.print(f"- {note}", style="dim", markup=False)


def _table(answer: Plan) -> Table:
    from rich.table import Table

    from quantlab.plan.memory import GIB, kv_bytes_per_token
    from quantlab.plan.spellings import KV_BITS

    setup, shape = answer.setup, answer.setup.shape
    where = f" on {setup.place}" if setup.card else ""
    table = Table(title=f"{shape.name} in {setup.fmt}{where}, {setup.engine.name}", title_justify="left")
    table.add_column("part")
    table.add_column("how", overflow="fold")
    table.add_column("GiB", justify="right")

    def row(part: str, how: str, nbytes: float, **style: str | bool) -> None:
        table.add_row(part, how, f"{nbytes / GIB:,.2f}", **style)  # type: ignore[arg-type]

    copies = answer.weights_bytes / max(1, sum(answer.weights_by_kind().values()))
    for kind, nbytes in answer.weights_by_kind().items():
        if nbytes * 1000 > answer.weights_bytes:  # norms and biases are too small to show
            row(f"  {kind.replace('_', ' ')}", "", nbytes * copies)
    bits = f"{shape.parameters / 1e9:,.2f} billion x {answer.bits_per_weight:.2f} bits"
    row("weights", bits, answer.weights_bytes, end_section=True)
    per_token = kv_bytes_per_token(shape, KV_BITS[setup.kv]) / 1024
    kept = f"{per_token:,.1f} KiB a token in {setup.kv}, {setup.concurrency:,} x {setup.context:,} tokens"
    row("KV cache", kept, answer.kv_bytes)
    row("overhead", "CUDA, activations (assumed)", answer.overhead_bytes, end_section=True)
    row("together", f"on {setup.gpus} GPUs" if setup.gpus > 1 else "", answer.total_bytes, style="bold")
    if answer.gpu_bytes is not None and setup.card is not None:
        share = f"{setup.share:.0%} of {setup.card.memory_gib:,.2f} GiB{f' x {setup.gpus}' if setup.gpus > 1 else ''}"
        row("there is", share, answer.gpu_bytes)
    return table


def _draw(answer: Plan, target: Path) -> None:
    from quantlab.atomic import new_file
    from quantlab.plan.gpus import GPUS
    from quantlab.plan.memory import GIB
    from quantlab.plots import Need, memory_bars

    if not target.parent.is_dir():
        raise QuantlabError(f"cannot write {target}: there is no folder {target.parent}; make it or name another")
    setup = answer.setup
    parts = {"weights": answer.weights_bytes, "KV cache": answer.kv_bytes, "overhead": answer.overhead_bytes}
    label = f"{setup.shape.name}\n{setup.fmt}\n{setup.concurrency} of {setup.context:,}"
    cards = {GPUS[name].label: GPUS[name].memory_gib * setup.share for name in _PICTURED}
    if setup.card is not None and answer.gpu_bytes is not None:
        others = cards if setup.gpus == 1 else {}  # the bar is what all GPUs together hold
        cards = {setup.place: answer.gpu_bytes / GIB} | others
    picture = memory_bars([Need(label, {part: nbytes / GIB for part, nbytes in parts.items()})], cards)
    drawn = picture.png()
    with new_file(target) as temporary:
        temporary.write_bytes(drawn)
