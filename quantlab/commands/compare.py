"""`quantlab compare MODEL`: what each format costs in quality, bytes and seconds."""

from __future__ import annotations

import os
from pathlib import Path

import click

from quantlab.commands.progress import reporting
from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate.names import AT_BITS, BACKENDS, DEFAULT_FORMATS


@click.command("compare")
@click.argument("model")
@click.option("--formats", metavar="A,B,...", help=f"Formats to measure [default: {','.join(DEFAULT_FORMATS)}].")
@click.option("--methods", metavar="A,B,...", help="Methods, by quantlab or as LIBRARY:METHOD, in each of the formats.")
@click.option(
    "--bits",
    type=click.Choice([str(bits) for bits in sorted(AT_BITS)]),
    help="All that competes at so many bits, or the bits of --methods [default: 4].",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the figures as JSON.")
@click.option("--picture", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw quality against bits.")
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="Measure on this .txt or .jsonl file.")
@click.option(
    "--task",
    type=click.Path(path_type=Path),
    metavar="FILE.jsonl",
    help="Ask these questions: ARC, PIQA, COPA, or {context, right, wrong} [default: the bundled story endings].",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Calibrate on this .txt or .jsonl file [default: the bundled stories].",
)
@click.option("--context", type=click.IntRange(min=16), metavar="TOKENS", help="Tokens in a window [default: 512].")
@click.option("--speed", is_flag=True, help="Measure tokens/s of the GGUF types, by llama.cpp, and the Pareto front.")
@click.option("--max-mb", type=float, metavar="MB", help="Recommend a format of at most so many MB.")
@click.option("--max-kl", type=float, metavar="NATS", help="Recommend one that loses at most so much.")
@click.option("--min-speed", type=float, metavar="TOKENS/S", help="Recommend one that decodes so fast; with --speed.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit, for a model of the Hub.")
@click.option("--trust-remote-code", metavar="MODEL", help="Name the model again to let its own code run.")
def command(
    model: str,
    formats: str | None,
    methods: str | None,
    bits: str | None,
    json_file: Path | None,
    picture: Path | None,
    text: Path | None,
    task: Path | None,
    calibration: Path | None,
    context: int | None,
    speed: bool,
    max_mb: float | None,
    max_kl: float | None,
    min_speed: float | None,
    revision: str | None,
    trust_remote_code: str | None,
) -> None:
    """Quantize MODEL (tiny, a folder or a Hub id) in many ways and measure each against the original.

    \b
    quantlab compare tiny
    quantlab compare tiny --formats int4_g128,nf4,q4_k_m --json out.json
    quantlab compare smollm2 --task ARC-Easy-Test.jsonl
    quantlab compare tiny --formats q8_0,q6_k,q4_k_m --speed --max-mb 10
    quantlab compare tiny --bits 4                      every method and library at 4 bits
    quantlab compare tiny --methods awq,gptq,autoawq --bits 4
    quantlab compare tiny --formats gptq:int3_g128,llm-compressor:gptq:int4_g128
    """
    for target in (json_file, picture):
        if target is not None:
            _check_target(target)
    if picture is not None and picture.suffix.lower() != ".png":
        raise UsageError(f"--picture writes a PNG file; name it {picture.with_suffix('.png').name}")
    names = _listed(formats, "--formats names no format; leave it out to measure the usual ones")
    ways = _listed(methods, f"--methods names no method; such as awq, or one of a library: {BACKENDS[2]}:awq")
    if bits is not None and names is not None:
        raise UsageError("--bits says which formats; leave out --bits or --formats")

    if min_speed is not None and not speed:
        raise UsageError("--min-speed needs --speed, which measures it")

    from rich.console import Console

    from quantlab.atomic import new_file, write_text
    from quantlab.evaluate.compare import compare
    from quantlab.evaluate.front import Budget

    asked = [max_mb, max_kl, min_speed]
    budget = Budget(max_mb and max_mb * 1e6, max_kl, min_speed) if any(one is not None for one in asked) else None
    with reporting(model, "starting", 18, lambda what: what.split(": ", maxsplit=1)[0]) as progress:
        result = compare(
            model, names, methods=ways, bits=None if bits is None else int(bits), text=text, task=task,
            calibration=calibration, context=context, revision=revision,
            trust_remote_code=trust_remote_code or False, speed=speed, budget=budget, progress=progress,
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(result.table(wide=console.width >= (120 if result.by_method else 100)))
    for note in result.notes():
        console.print(note, markup=False)
    if json_file is not None:
        write_text(json_file, result.to_json())
        console.print(f"figures: {json_file}", markup=False, soft_wrap=True)
    if picture is not None:
        from quantlab.plots import quality_at_bits, quality_vs_bits

        draw = quality_at_bits if result.by_method and result.spread < 1 else quality_vs_bits
        drawn = draw(result.to_dict()["rows"]).png()
        with new_file(picture) as temporary:
            temporary.write_bytes(drawn)
        console.print(f"picture: {picture}", markup=False, soft_wrap=True)


def _listed(words: str | None, empty: str) -> list[str] | None:
    """The names of an option; None where it was not given."""
    if words is None:
        return None
    names = [name.strip().lower() for name in words.split(",") if name.strip()]
    if not names:
        raise UsageError(empty)
    return names


def _check_target(target: Path) -> None:
    """Fail before a minute of work, not after it."""
    folder = target.parent
    if not folder.is_dir():
        raise QuantlabError(f"cannot write {target}: there is no folder {folder}; make it or name another")
    if target.is_dir():
        raise QuantlabError(f"cannot write {target}: it is a folder; name a file in it")
    if not os.access(folder, os.W_OK):
        raise QuantlabError(f"cannot write {target}: the folder is not writable for you; choose one that is")
