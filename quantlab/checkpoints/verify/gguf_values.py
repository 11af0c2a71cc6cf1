"""What the tensors of a GGUF file hold: finite scales, filled blocks, nibbles in order.

Each block carries its own scales, at a place that its type fixes (SCALES, from ggml-common.h's structs). They must be
finite, as llama.cpp's --check-tensors demands. Zero is the scale of a block of zeros, and below zero the sign of the
largest weight (Q4_0: d = max / -8), so neither is a fault here.

Reference: ggml-quants.c, `ggml_validate_row_data` (release of llama-cpp-python 0.3.36).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from quantlab.checkpoints.gguf_families import LINEAR
from quantlab.checkpoints.verify.layer import MOST_WEIGHTS
from quantlab.checkpoints.verify.neighbours import ROWS, Block, Table, heads_of, sampled, table
from quantlab.checkpoints.verify.orders import Verdict
from quantlab.checkpoints.verify.result import Findings
from quantlab.checkpoints.verify.values import count_orders, natural, tell_order
from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError
from quantlab.formats.gguf_file import FORMATS, PLAIN, GgufFile
from quantlab.formats.gguf_head import TYPES, TensorInfo

_HALF, _SINGLE, _POWER, _E4M3 = "float16", "float32", "E8M0", "E4M3"
# type -> where in a block its scales are: (byte, how they are stored); iq1_m spreads its one over four fields
SCALES: dict[str, tuple[tuple[int, str], ...]] = {
    "q4_0": ((0, _HALF),), "q4_1": ((0, _HALF), (2, _HALF)), "q5_0": ((0, _HALF),), "q5_1": ((0, _HALF), (2, _HALF)),
    "q8_0": ((0, _HALF),), "q8_1": ((0, _HALF), (2, _HALF)), "q2_k": ((80, _HALF), (82, _HALF)),
    "q3_k": ((108, _HALF),), "q4_k": ((0, _HALF), (2, _HALF)), "q5_k": ((0, _HALF), (2, _HALF)),
    "q6_k": ((208, _HALF),), "q8_k": ((0, _SINGLE),), "iq2_xxs": ((0, _HALF),), "iq2_xs": ((0, _HALF),),
    "iq2_s": ((0, _HALF),), "iq3_xxs": ((0, _HALF),), "iq3_s": ((0, _HALF),), "iq1_s": ((0, _HALF),),
    "iq4_nl": ((0, _HALF),), "iq4_xs": ((0, _HALF),), "tq1_0": ((52, _HALF),), "tq2_0": ((64, _HALF),),
    "mxfp4": ((0, _POWER),), "nvfp4": tuple((i, _E4M3) for i in range(4)), "q1_0": ((0, _HALF),), "q2_0": ((0, _HALF),),
}  # fmt: skip
_WIDTH = {_HALF: 2, _SINGLE: 4, _POWER: 1, _E4M3: 1}
_BLOCK = re.compile(r"(blk\.\d+)\.(.+)\.weight")
_ROLES = {gguf: name.rpartition(".")[2] for name, gguf in LINEAR.items()}
_PIECE = 2**22  # numbers, or blocks


def check_values(
    file: GgufFile, config: Mapping[str, Any], progress: Callable[[str, float], None], findings: Findings
) -> None:
    """Read every tensor and look at its values."""
    orders: Counter[Verdict] = Counter()
    known = _embedding(file)
    total, done = max(1, sum(info.nbytes for info in file.tensors.values())), 0
    for infos in _blocks(file).values():
        neighbours = Block(known, heads_of(config))
        for info in infos:
            progress(info.name, done / total)
            done += info.nbytes
            if _tensor(file, info, findings):
                _see(file, info, neighbours)
        for name, evidence in neighbours.judge():
            orders[evidence.verdict] += 1
            tell_order(name, evidence, findings)
    findings.well("scales", "the scales of all blocks are finite")
    findings.well("codes", "every tensor is filled")
    findings.well("values", "everything that is not quantized is finite")
    count_orders(orders, findings)


def _blocks(file: GgufFile) -> dict[str, list[TensorInfo]]:
    """The tensors of each decoder block, the others under ""."""
    blocks: dict[str, list[TensorInfo]] = defaultdict(list)
    for name, info in file.tensors.items():
        match = _BLOCK.fullmatch(name)
        blocks[match[1] if match else ""].append(info)
    return {block: blocks[block] for block in sorted(blocks, key=natural)}


def _tensor(file: GgufFile, info: TensorInfo, findings: Findings) -> bool:
    """Whether a tensor can be used; says what is wrong with it."""
    where = f"{info.name} in {file.path}"
    if info.type in PLAIN:
        for piece in _numbers(file, info):
            if not torch.isfinite(piece.float()).all():
                bad = "a number that is none (NaN)" if piece.float().isnan().any() else "an infinite number"
                findings.fault("values", f"{where} holds {bad}; convert the model again", bad)
                return False
        return True
    for scales in _scales(file, info):
        if not torch.isfinite(scales).all():
            bad = "not a number" if scales.isnan().any() else "infinite"
            what = f"{where} has a block whose scale is {bad}; download or convert it again"
            findings.fault("scales", what, f"scale {bad}")
            return False
    blocks = file.raw(info.name).reshape(-1, TYPES[info.type].nbytes)
    if len(blocks) > 1 and bool((blocks == blocks[0]).all()) and bool(blocks.any()):
        findings.fault("codes", f"all blocks of {where} are the same; convert the model again", "same blocks")
        return False
    if not bool(blocks.any()):
        findings.fault("codes", f"{where} is all zero bytes; it was not filled: download it again", "zero bytes")
        return False
    return True


def _numbers(file: GgufFile, info: TensorInfo) -> Iterator[Tensor]:
    """The numbers of a tensor that is not quantized, a piece at a time."""
    values = file.raw(info.name).view(PLAIN[info.type])
    for start in range(0, len(values), _PIECE):
        yield values[start : start + _PIECE]


def _scales(file: GgufFile, info: TensorInfo) -> Iterator[Tensor]:
    """The scales of the blocks, float32, a piece at a time."""
    blocks = file.raw(info.name).reshape(-1, TYPES[info.type].nbytes)
    for start in range(0, len(blocks), _PIECE):
        for byte, stored in SCALES.get(info.type, ()):
            yield _as_float(blocks[start : start + _PIECE, byte : byte + _WIDTH[stored]].contiguous(), stored)


def _as_float(octets: Tensor, stored: str) -> Tensor:
    if stored == _POWER:
        return torch.where(octets == 255, torch.nan, 1.0)
    if stored == _E4M3:
        return octets.view(torch.float8_e4m3fn).float()
    return octets.view(torch.float16 if stored == _HALF else torch.float32).float()


def _see(file: GgufFile, info: TensorInfo, neighbours: Block) -> None:
    """Show a matrix of a block to its neighbours."""
    match = _BLOCK.fullmatch(info.name)
    role = _ROLES.get(match[2]) if match else None
    if role is None or len(info.shape) != 2 or info.shape[0] * info.shape[1] > MOST_WEIGHTS:
        return
    W = _matrix(file, info)
    if W is not None and torch.isfinite(W).all():
        neighbours.see(role, info.name, W, TYPES[info.type].block if info.type in FORMATS else None)


def _matrix(file: GgufFile, info: TensorInfo, rows: Tensor | None = None) -> Tensor | None:
    """Some rows of a matrix or all of them, float32; None for a type that is not taken apart here."""
    if info.type not in FORMATS and info.type not in ("f32", "f16", "bf16"):
        return None
    try:
        stored = file.tensor(info.name)
    except QuantlabError:
        return None
    if not isinstance(stored, QuantizedTensor):
        return (stored if rows is None else stored[rows]).float()
    blocks = stored.parts["blocks"] if rows is None else stored.parts["blocks"][rows]
    return QuantizedTensor(stored.fmt, {"blocks": blocks}, (len(blocks), stored.shape[1])).dequantize()


def _embedding(file: GgufFile) -> Table | None:
    """What the embedding knows of the channels of the residual stream."""
    info = file.tensors.get("token_embd.weight")
    if info is None or len(info.shape) != 2:
        return None
    rows = torch.linspace(0, info.shape[0] - 1, min(ROWS, info.shape[0])).long()
    W = _matrix(file, info, rows)
    return table(W[:, sampled(W.shape[1])].T) if W is not None and torch.isfinite(W).all() else None
