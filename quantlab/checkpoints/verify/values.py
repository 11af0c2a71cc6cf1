"""What the tensors hold, read one after the other: scales, codes, their order, and everything that is not quantized.

Decoder blocks are read one by one, whatever file their tensors lie in, because the order of a matrix's columns shows
only beside its neighbours. In memory are one layer, and of the others of its block tables of 512 x 512 cosines.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from quantlab.checkpoints.kind import FLOATS
from quantlab.checkpoints.kinds import KINDS
from quantlab.checkpoints.read import Layer, read_tensors
from quantlab.checkpoints.verify.headers import Model
from quantlab.checkpoints.verify.layer import OpenLayer
from quantlab.checkpoints.verify.neighbours import ROLES, ROWS, Block, Table, heads_of, sampled, table
from quantlab.checkpoints.verify.orders import Evidence, Verdict
from quantlab.checkpoints.verify.packing import check_codes
from quantlab.checkpoints.verify.result import Findings
from quantlab.checkpoints.verify.scales import check_scales
from quantlab.checkpoints.verify.settings import Described, embedding
from quantlab.checkpoints.verify.stream import pieces, some_rows
from quantlab.errors import QuantlabError
from quantlab.formats.awq_pack import AwqGemm
from quantlab.formats.fp8 import FloatBytes
from quantlab.formats.llm_int8 import SignedBytes
from quantlab.formats.pack_quantized import IntQuantized
from quantlab.models.weights_file import Entry

WHOLE_BYTES = (FloatBytes, IntQuantized, SignedBytes)  # packings without nibbles
Report = Callable[[str, int], None]
"""What is being looked at, and how many bytes of it are done."""

_BLOCK = re.compile(r"(.*?\.(?:layers|h|blocks)\.\d+)\.")
_LARGEST_HALF = 65504.0  # float16


def check_values(model: Model, described: Described, report: Report, findings: Findings) -> None:
    """Read every tensor and look at its values."""
    orders: Counter[Verdict] = Counter()
    known = _embedding(model, described)
    for names in _blocks(described).values():
        neighbours = Block(known, heads_of(model.config))
        beside = any(name in described.layers for name in names)
        for name in names:
            if name in described.layers:
                _layer(model, described, name, neighbours, orders, findings)
                report(name, sum(entry.nbytes for entry in described.layers[name].parts.values()))
            else:
                _plain(model, described.plain[name], neighbours if beside else None, findings)
                report(name, described.plain[name].nbytes)
        for name, evidence in neighbours.judge():
            orders[evidence.verdict] += 1
            tell_order(name, evidence, findings)
    if described.layers:
        findings.well("scales", f"the scales of {len(described.layers):,} layers are positive and finite")
        findings.well("codes", "the codes lie around their zero points and follow their scales")
        whole = all(isinstance(layer.fmt.packing, WHOLE_BYTES) for layer in described.layers.values())
        if whole:
            findings.well("order", "each code is a byte of its own: there are no nibbles to swap")
        else:
            count_orders(orders, findings)
    findings.well("values", f"{len(described.plain):,} tensors that are not quantized hold finite numbers")


def _blocks(described: Described) -> dict[str, list[str]]:
    """Tensors and layers of each decoder block, in the order of the model; the others under ""."""
    blocks: dict[str, list[str]] = defaultdict(list)
    for name in [*described.layers, *described.plain]:
        match = _BLOCK.match(name)
        blocks[match[1] if match else ""].append(name)
    return {block: sorted(blocks[block]) for block in sorted(blocks, key=natural)}


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts layer 10 after layer 9.

    >>> sorted(["a.10", "a.9"], key=natural)
    ['a.9', 'a.10']
    """
    return [(int(part[:18]), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _embedding(model: Model, described: Described) -> Table | None:
    """What the embedding knows of the channels of the residual stream."""
    entry = embedding(described.plain)
    if entry is None or not described.layers:
        return None
    try:
        rows = some_rows(model.places[entry.name], entry, ROWS)
    except QuantlabError:
        return None  # told where it is read in full
    if rows is None or not torch.isfinite(rows).all():
        return None
    return table(rows[:, sampled(rows.shape[1])].T)


def _layer(
    model: Model, described: Described, name: str, neighbours: Block, orders: Counter[Verdict], findings: Findings
) -> None:
    """Read a quantized layer, and check it."""
    layer = described.layers[name]
    try:
        opened = _open(model.places, described.kind, name, layer)
    except QuantlabError as error:
        findings.fault("codes", str(error), str(error).replace(name, "*"))
        return
    if not check_scales(opened, findings):
        return
    if not opened.small_enough:
        findings.unsure("codes", f"{name} is too large for its codes to be examined")
        return
    across = check_codes(opened, findings)
    if isinstance(layer.fmt.packing, AwqGemm):  # its words hold rows, not columns
        orders[across.verdict if across is not None else Verdict.CANNOT_TELL] += 1
    elif (role := name.rpartition(".")[2]) in ROLES and torch.isfinite(opened.weights).all():
        neighbours.see(role, name, opened.weights, None if isinstance(layer.fmt.packing, WHOLE_BYTES) else 8)


def _open(places: Mapping[str, Path], kind: str, name: str, layer: Layer) -> OpenLayer:
    read = read_tensors(places, [f"{name}.{part}" for part in layer.parts])
    stored = {part: read[f"{name}.{part}"] for part in layer.parts}
    try:
        opened = OpenLayer(name, layer.fmt, layer.shape, stored, KINDS[kind].restore(layer.fmt, stored))
        _ = opened.q if opened.small_enough else None
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise QuantlabError(f"{name} cannot be taken apart: {error}; quantize the layer again") from error
    return opened


def _plain(model: Model, entry: Entry, neighbours: Block | None, findings: Findings) -> None:
    """A tensor that is not quantized: finite, not all zero, and within float16 if it will be loaded as that."""
    path, largest = model.places[entry.name], 0.0
    try:
        for piece in pieces(path, entry):
            if not torch.isfinite(piece.float()).all():
                bad = "a number that is none (NaN)" if piece.float().isnan().any() else "an infinite number"
                sentence = f"{entry.name} in {path.name} holds {bad}; get the model again"
                findings.fault("values", sentence, bad)
                return
            largest = max(largest, float(piece.float().abs().max()))
        role = entry.name.removesuffix(".weight").rpartition(".")[2]
        if neighbours is not None and role in ROLES and len(entry.shape) == 2:
            neighbours.see(role, entry.name, read_tensors({entry.name: path}, [entry.name])[entry.name].float(), None)
    except QuantlabError as error:
        findings.fault("values", str(error))
        return
    if largest == 0 and len(entry.shape) > 1 and entry.dtype in FLOATS:
        what = f"{entry.name} in {path.name} is all zeros; it was not filled: get the model again"
        findings.fault("values", what, "all zeros")
    asked = str(model.config.get("dtype") or model.config.get("torch_dtype") or "")
    if asked == "float16" and largest > _LARGEST_HALF:
        what = f"{entry.name} reaches {largest:g}, beyond the float16 that config.json asks for; set dtype to bfloat16"
        findings.fault("values", what, "beyond float16")


def tell_order(name: str, evidence: Evidence, findings: Findings) -> None:
    """Say that nibbles are swapped, where they are."""
    if evidence.verdict is Verdict.WRONG:
        sentence = (
            f"the columns of {name} fit their neighbours better in the order '{evidence.name}' than as its kind stores "
            f"them ({evidence.other:,.0f} against {evidence.said:,.0f}): its nibbles are swapped; pack the layer again"
        )
        findings.fault("order", sentence, f"columns {evidence.name}")


def count_orders(orders: Mapping[Verdict, int], findings: Findings) -> None:
    """How many layers the statistics could decide."""
    right, open_ = orders[Verdict.RIGHT], orders[Verdict.CANNOT_TELL]
    if not right and not orders[Verdict.WRONG]:
        findings.unsure("order", "whether nibbles are swapped: nothing in these weights betrays the order of codes")
    else:
        told = f"the codes of {right:,} layers lie in the order of their kind"
        findings.well("order", told + (f"; of {open_:,} it cannot be told" if open_ else ""))
