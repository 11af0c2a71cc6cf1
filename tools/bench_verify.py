"""How often is `quantlab verify` right about the order of codes, how often wrong, how often does it not know?

    python tools/bench_verify.py                    tiny and SmolLM2, a few minutes; writes docs/verify.md
    python tools/bench_verify.py --models tiny

Every linear layer of a model is quantized in each format and looked at twice: as it is, and with the nibbles of every
byte exchanged (AWQ: also with its interleave forgotten). A layer that is right and called swapped is a false alarm; one
that is swapped and called right is missed. The laws of packing.py are measured beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from quantlab.atomic import write_text
from quantlab.checkpoints.verify.layer import OpenLayer
from quantlab.checkpoints.verify.neighbours import ROLES, Block, heads_of, sampled, table
from quantlab.checkpoints.verify.orders import CLEARLY, SURE, Verdict
from quantlab.checkpoints.verify.packing import CENTRED, FOLLOWED, GONE_WITH, SMALL, scale_evidence, zero_evidence
from quantlab.core import Parts, QuantizedTensor
from quantlab.formats.awq_pack import ORDER, AwqGemm
from quantlab.formats.catalog import get
from quantlab.formats.gguf_head import TYPES
from quantlab.formats.words import IN_ORDER, pack_words, unpack_words
from quantlab.models.bundled import tiny_folder
from quantlab.models.smollm2 import smollm2_folder

MODELS = {"tiny": (tiny_folder, 128), "smollm2": (smollm2_folder, 64)}
FORMATS = ("awq_int4", "gptq_int4", "int4", "int4 asymmetric", "nf4", "fp4", "mxfp4", "nvfp4", "q4_0", "q4_1")
CODES = ("qweight", "weight_packed", "weight", "blocks")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "verify.md"
Damage = Callable[[QuantizedTensor], QuantizedTensor]


def swap(octets: Tensor) -> Tensor:
    return (octets >> 4) | (octets << 4)


def swapped(Q: QuantizedTensor) -> QuantizedTensor:
    """The nibbles of each byte of codes exchanged."""
    parts: Parts = dict(Q.parts)
    name = next(name for name in CODES if name in parts)
    octets = parts[name].contiguous().view(torch.uint8).clone()
    if name == "blocks":  # after the scales
        blocks = octets.reshape(-1, TYPES[Q.fmt.name].nbytes)
        blocks[:, -16:] = swap(blocks[:, -16:])
    else:
        octets = swap(octets)
    parts[name] = octets.view(parts[name].dtype).reshape(parts[name].shape)
    return QuantizedTensor(Q.fmt, parts, Q.shape)


def not_interleaved(Q: QuantizedTensor) -> QuantizedTensor:
    """AWQ's words with their outputs in natural order, codes and zero points alike."""
    moved = {
        name: pack_words(unpack_words(Q.parts[name], 4, Q.shape[0], ORDER), 4, IN_ORDER)
        for name in ("qweight", "qzeros")
    }
    return QuantizedTensor(Q.fmt, {**Q.parts, **moved}, Q.shape)


def quantized(W: Tensor, name: str, group: int) -> QuantizedTensor:
    base, _, option = name.partition(" ")
    if base in ("awq_int4", "gptq_int4", "int4"):
        return get(f"{base}_g{group}", **({"symmetric": False} if option else {})).quantize(W)
    return get(base).quantize(W)


def blocks_of(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Layer name -> weights, block by block."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        layer = name.removesuffix(".weight")
        if tensor.ndim == 2 and layer.rpartition(".")[2] in ROLES:
            found[".".join(layer.split(".")[:3])][layer] = tensor.float()
    yield from found.values()


def look(model: str, fmt: str, damage: Damage, laws: dict[str, list[float]]) -> Counter[Verdict]:
    """The verdict on every layer of a model."""
    folder, group = MODELS[model][0](), MODELS[model][1]
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    rows = tensors["model.embed_tokens.weight"]
    some = rows[torch.linspace(0, len(rows) - 1, 2048).long()].float()
    embedding = table(some[:, sampled(some.shape[1])].T)
    verdicts: Counter[Verdict] = Counter()
    for layers in blocks_of(tensors):
        block = Block(embedding, heads_of(config))
        for name, W in layers.items():
            Q = damage(quantized(W, fmt, group))
            opened = OpenLayer(name, Q.fmt, Q.shape, Q.parts, Q.parts)
            if isinstance(Q.fmt.packing, AwqGemm):
                by_scale = scale_evidence(opened)
                verdicts[by_scale[1].verdict if by_scale else Verdict.CANNOT_TELL] += 1
            else:
                length = TYPES[fmt].block if "blocks" in Q.parts else 8  # MXFP4 and NVFP4 are GGUF types, too
                block.see(name.rpartition(".")[2], name, opened.weights, length)
            if "blocks" not in Q.parts:
                measure(opened, laws)
        verdicts.update(evidence.verdict for _, evidence in block.judge())
    return verdicts


def measure(layer: OpenLayer, laws: dict[str, list[float]]) -> None:
    """The laws of packing.py on one layer."""
    for law, found in (("followed", scale_evidence(layer)), ("zeros", zero_evidence(layer))):
        if found is not None:
            laws[law].append(found[0])
    if layer.group is not None:
        sizes = layer.grouped(layer.weights).abs()
        laws["small"].append(float(sizes.mean(-1).sum() / sizes.amax(-1).sum()))
        if "zero" in layer.p:
            laws["centred"].append(float((layer.grouped(layer.q.float()).mean(-1) - layer.p["zero"]).mean()))


def page(rows: list[tuple[str, str, str, Counter[Verdict]]], laws: dict[str, list[float]]) -> str:
    """docs/verify.md."""
    lines = [
        "# How sure `quantlab verify` is about the order of codes",
        "",
        "Written by `python tools/bench_verify.py`. Every linear layer of a model, rounded to nearest and looked at as "
        f"it is and damaged. A verdict needs a squared z of {SURE:.0f} and {CLEARLY:.0f} times that of "
        'every other order; else it is "cannot tell".',
        "",
        "| model | format | what was done | called right | called wrong | cannot tell |",
        "|---|---|---|---:|---:|---:|",
    ]
    for model, fmt, what, verdicts in rows:
        counts = " | ".join(str(verdicts[v]) for v in (Verdict.RIGHT, Verdict.WRONG, Verdict.CANNOT_TELL))
        lines.append(f"| {model} | {fmt} | {what} | {counts} |")
    whole = [verdicts for _, _, what, verdicts in rows if what == "nothing"]
    damaged = [verdicts for _, _, what, verdicts in rows if what != "nothing"]
    for title, group, error in (
        ("as they are", whole, Verdict.WRONG), ("damaged", damaged, Verdict.RIGHT),
    ):  # fmt: skip
        total = sum(sum(v.values()) for v in group)
        wrong, unsure = (sum(v[kind] for v in group) for kind in (error, Verdict.CANNOT_TELL))
        lines += ["", f"Layers {title}: {total:,}; misjudged {wrong:,}, cannot tell {unsure:,} ({unsure / total:.1%})."]
    lines += [
        "", "These are two models and one way to round. Random weights have no order along a row that could be seen; "
        "for them the answer is \"cannot tell\" (tests/unit/test_verify_order.py).",
        "", "## The laws of packing.py on the layers as they are", "",
        "| law | what is measured | from | to | a fault beyond |", "|---|---|---:|---:|---:|",
    ]  # fmt: skip
    described = {
        "followed": ("r of log scale and log spread of the codes", f"{FOLLOWED}"),
        "zeros": ("r of zero points and mean codes", f"{GONE_WITH}"),
        "centred": ("mean(q - z), steps", f"±{CENTRED}"),
        "small": ("mean abs(w) / max abs(w) of the group", f"{SMALL}"),
    }
    for law, (what, limit) in described.items():
        lines.append(f"| {law} | {what} | {min(laws[law]):.2f} | {max(laws[law]):.2f} | {limit} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the statistics of quantlab verify.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    args = parser.parse_args()
    rows = []
    laws: dict[str, list[float]] = defaultdict(list)
    for model in args.models:
        for fmt in args.formats:
            damages: dict[str, Damage] = {"nothing": lambda Q: Q, "nibbles exchanged": swapped}
            if fmt.startswith("awq"):
                damages["interleave forgotten"] = not_interleaved
            for what, damage in damages.items():
                unused: dict[str, list[float]] = defaultdict(list)
                rows.append((model, fmt, what, look(model, fmt, damage, laws if what == "nothing" else unused)))
                print(*rows[-1], file=sys.stderr, flush=True)
    write_text(PAGE, page(rows, laws))
    print(PAGE)
    return 0


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())
