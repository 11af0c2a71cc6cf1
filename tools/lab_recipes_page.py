"""docs/lab_recipes.md: which model and formats the labs take on each GPU, from the planner (tools/generate.py)."""

from __future__ import annotations

from markdown_rows import row, rule

from quantlab.plan.lab_recipes import (
    CARDS,
    CONTEXT,
    DISK_GB_PER_S,
    FORMATS,
    HOST_BYTES_PER_WEIGHT,
    LINE_MBIT_PER_S,
    MARGIN,
    Recipe,
    recipe,
)
from quantlab.plan.lab_recipes import rule as how_on_cards
from quantlab.plan.lab_sources import OPTIONAL, SOURCES
from quantlab.plan.support import family, support


def page() -> str:
    """The whole page."""
    found = [recipe(name) for name in CARDS]
    parts = (_head(), _table(found), _more(found), _formats(found), _sources())
    return "\n".join(line for part in parts for line in part) + "\n"


def _head() -> list[str]:
    return [
        "# Lab recipes",
        "",
        "Written by `python tools/generate.py` from `quantlab.plan.lab_recipes`; `quantlab recipe GPU` prints one with",
        "its commands. **All is PREDICTED by the planner; nothing on this page was measured on these GPUs.**",
        "",
        "How it is derived:",
        "",
        "- **Model**: the largest that a lab may take (up to 8 billion weights) whose *original* fits with",
        f"  {CONTEXT:,} tokens of text, so that every lab runs. *Fits* is the planner's sum (weights, KV cache, what",
        "  vLLM needs beside them) within vLLM's share of the card, with "
        f"{MARGIN:.0%} more of what vLLM needs: the planner's error.",
        "- **Why not larger** on a large card: a lab quantizes and judges in the machine's *own* memory, which the",
        "  column *memory* says. A machine with less is refused before anything is loaded; take a smaller model, or",
        "  the rehearsal.",
        f"- **Minutes**: the download at {LINE_MBIT_PER_S:g} Mbit a second, and reading the original once at "
        f"{DISK_GB_PER_S:g} GB a second: both",
        "  assumptions (`quantlab recipe GPU --line MBIT`). Quantizing and a server's own start are not in them.",
        "- **KV cache**: FP8 where vLLM's Triton backend has it, from compute capability 8.9 on; else 16 bits.",
        "  `quantlab serve` itself keeps 16 bits, which fits as well; the last line of a recipe asks vLLM for FP8.",
        "- **Disk**: the original, and as much again, which `quantlab quantize` asks for.",
    ]


def _table(found: list[Recipe]) -> list[str]:
    head = ("GPU", "model", "download, GB", "minutes", "memory, GB", "disk, GB", "labs quantize to", "GB", "KV cache",
            "utilisation", "context, at most", f"texts of {CONTEXT:,} at once", "tokens/s of one")  # fmt: skip
    lines = ["", row(*head), rule(len(head))]
    for one in found:
        best = one.best
        lines.append(row(
            one.card.label, one.model, f"{one.download_gb:.1f}", f"{one.download_minutes:.0f} + {one.load_minutes:.1f}",
            f"{one.host_gb:.0f}", f"{one.disk_gb:.0f}", f"`{best.fmt}`", f"{best.weights_bytes / 1e9:.1f}", best.kv,
            f"{best.utilization:g}", f"{best.context:,}", f"{best.at_once:,}", f"{best.tokens_per_s:,.0f}",
        ))  # fmt: skip
    return [*lines, "", "Tokens a second are the roofline's: no engine does better."]


def _more(found: list[Recipe]) -> list[str]:
    lines = [
        "",
        "## What each card would hold",
        "",
        "For those who want more than the labs take, by the card alone. The originals of the second column fit; the",
        "models of the others fit in the format named, and are best taken ready-made: quantizing one takes",
        f"{HOST_BYTES_PER_WEIGHT} bytes of the machine's memory for each weight. The gated one needs a token of the "
        "Hub and its licence accepted there.",
        "",
        row("GPU", "largest original", "largest in some format of vLLM's", "context, at most", "gated, optional"),
        rule(5),
    ]
    for one in found:
        (name, how), gated = one.stretch, one.gated
        optional = f"{gated[0]}, `{gated[1].fmt}`" if gated else "none"
        lines.append(row(one.card.label, one.largest, f"{name}, `{how.fmt}`", f"{how.context:,}", optional))
    return lines


def _formats(found: list[Recipe]) -> list[str]:
    lines = ["", "## Which formats run", "", row("GPU", *(f"`{fmt}`" for fmt in FORMATS)),
             rule(len(FORMATS) + 1)]  # fmt: skip
    lines += [row(one.card.label, *(choice.words for choice in one.choices)) for one in found]
    lines += [
        "",
        "*Native*: the card multiplies numbers of this type. *Weight only*: they become 16-bit numbers on their way.",
        "*No*: the engine does not run it there. A T4 has no bf16, so vLLM takes fp16 (`--dtype half`). `nf4` is run",
        "by transformers, which may fill the whole card; vLLM needs a plug-in for it. Why, format by format:",
        "",
        row("format", "engine", "runs", "read in"),
        rule(4),
    ]
    for one in found[0].choices:
        row_of = support(one.engine, family(one.fmt) or "")
        if row_of is not None:
            lines.append(row(f"`{one.fmt}`", one.engine, how_on_cards(row_of), row_of.source))
    lines += ["", "Where it says no, and what to take instead:", ""]
    return lines + [f"- {c.why}" for one in found for c in one.choices if not c.runs]


def _sources() -> list[str]:
    lines = [
        "",
        "## Where the models come from",
        "",
        row("model", "repository", "revision", "licence", "gated", "files with a pinned SHA-256", "read in"),
        rule(7),
    ]
    for name, source in (SOURCES | OPTIONAL).items():
        pinned = str(len(source.files)) if source.files else "none"
        where = f"[{source.repository}](https://huggingface.co/{source.repository}/tree/{source.revision})"
        gated = "yes" if source.gated else "no"
        lines.append(row(name, where, f"`{source.revision[:12]}`", source.licence, gated, pinned, source.read))
    return [
        *lines,
        "",
        "`quantlab recipe GPU --check DIR` compares a download with them. *None*: not pinned by a hash here; the",
        "revision pins it, the Hub's client checks each file, and `quantlab verify` looks into what was made of it.",
    ]
