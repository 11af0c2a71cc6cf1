"""`quantlab quantize MODEL`: a quantized checkpoint, made by quantlab or by a production library."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantlab.commands.progress import reporting

if TYPE_CHECKING:
    from quantlab.backends.quantizers.order import Made


@click.command("quantize")
@click.argument("model")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new folder, or FILE.gguf."
)
@click.option(
    "--backend",
    default="quantlab",
    show_default=True,
    help="quantlab, autoawq, llm-compressor, gptqmodel, bitsandbytes or llama.cpp.",
)
@click.option(
    "--method", metavar="NAME", help="awq, gptq, awq_gptq, rtn, hqq, smoothquant, imatrix; else the backend's."
)
@click.option("--bits", type=int, metavar="B", help="Bits of a weight [default: 4].")
@click.option("--group", type=int, metavar="G", help="Weights that share a scale [default: 128]; -1 for a whole row.")
@click.option("--format", "fmt", metavar="NAME", help="int, awq, gptq, fp8, nvfp4, mxfp4, w8a8, nf4, q4_k_m, ...")
@click.option("--symmetric/--asymmetric", "symmetric", default=None, help="Without or with zero points.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .txt, or .jsonl with a text a line [default: the bundled stories].",
)
@click.option("--window", type=click.IntRange(min=2), metavar="TOKENS", help="Tokens in a window [default: 512].")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Windows to calibrate on [default: all].")
@click.option(
    "--keep",
    multiple=True,
    metavar="LAYER",
    help="A layer that stays as it is: its name, its end (down_proj) or a pattern. May be given again.",
)
@click.option("--no-clip", is_flag=True, help="AutoAWQ only: leave out its search for ranges, minutes on a CPU.")
@click.option(
    "--resume", is_flag=True, help="Keep each block's result beside DIR until all is done, and go on from there."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def command(
    model: str,
    out: Path,
    backend: str,
    method: str | None,
    bits: int | None,
    group: int | None,
    fmt: str | None,
    symmetric: bool | None,
    calibration: Path | None,
    window: int | None,
    samples: int | None,
    keep: tuple[str, ...],
    no_clip: bool,
    resume: bool,
    as_json: bool,
) -> None:
    """Quantize MODEL (tiny, smollm2, a folder or a Hub id) and write a checkpoint that servers load.

    \b
    quantlab quantize tiny --method awq --out tiny-awq
    quantlab quantize tiny --backend llm-compressor --format w8a8 --out tiny-w8a8
    quantlab quantize tiny --backend llama.cpp --format q4_k_m --out tiny.gguf
    """
    from quantlab.backends.quantizers.making import Text, quantize
    from quantlab.backends.quantizers.offers import Wish
    from quantlab.backends.quantizers.text import read_texts

    texts = read_texts(calibration) if calibration else None
    with reporting(f"{backend}: {model}", "checking", 28) as progress:
        try:
            made = quantize(
                model, Wish(backend, method, fmt, bits, group, symmetric), out, keep=keep, clip=not no_clip,
                resume=resume, calibration=Text(texts, window, samples), progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            if resume:
                click.echo(
                    f"quantlab: finished blocks are in {out}.resume; the same command goes on from there", err=True
                )
            raise
    click.echo(json.dumps(made.to_dict(), indent=1) if as_json else _summary(made))


def _summary(made: Made) -> str:
    """What was made, what it took, what to do next."""
    tokens = f" on {made.tokens:,} tokens" if made.tokens else ""
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    lines = [
        f"made     {made.path}",
        f"format   {made.format}: {made.bits_per_weight:.4g} bits a weight, {made.nbytes / 1e6:,.1f} MB in all",
        f"by       {made.library}, {made.method}{tokens} ({versions})",
        f"took     {made.seconds:.0f} s, {made.peak_bytes / 2**30:.1f} GiB of memory at the most, on the {made.device}",
        *(f"note     {note}" for note in made.notes),
        f"check    quantlab verify {shlex.quote(str(made.path))}",
        f"serve    quantlab serve {shlex.quote(str(made.path))}" + ("" if made.path.is_file() else " --engine vllm"),
    ]
    return "\n".join(lines)
