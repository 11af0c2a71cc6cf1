"""Lesson 2's second explorer: pick a weight and see its code, its scale, its error and its bytes, in any format.

An outlier can be planted in the same group: one weight grows, and every other weight of the group pays for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from quantlab.core import Format, Params, check_weights
from quantlab.formats.catalog import FORMATS
from quantlab.plots import Picture, Snapped, snapped_picture, snapped_words
from quantlab.widgets.explorer import Control, Explorer

CHOICE = {  # format -> bits of a code
    "int8": 8, "fp8_e4m3": 8, "q8_0": 8, "int4_g128": 4, "int4_g32": 4, "nf4": 4, "mxfp4": 4, "nvfp4": 4, "q4_0": 4,
    "q4_k": 4, "q2_k": 2,
}  # fmt: skip
OUTLIERS = (1, 2, 4, 8, 16, 32)  # times as large
COLUMNS = 256  # of the row that is shown: a whole block of every format
PLACES = 32  # weights that can be picked: they share a group in almost every format
OUTLIER = 13  # the column that grows


@dataclass(frozen=True)
class WeightResult:
    """A weight in a format, with an outlier so many times its size beside it."""

    fmt: str
    column: int
    outlier: int
    snapped: Snapped
    code: int
    bits: int  # of a code
    block: int  # weights of its group
    at: int  # which byte of the stored row holds the code (its lowest bits)
    octet: int  # that byte
    nbytes: int  # of the whole row
    rms_error: float  # of the group without the outlier, relative

    @property
    def binary(self) -> str:
        """The code's bits; below zero in two's complement."""
        return f"{self.code % 2**self.bits:0{self.bits}b}"

    def words(self) -> str:
        """Weight, code, value, error, and the group's."""
        return (
            f"{snapped_words(self.snapped)} Code {self.code} ({self.binary}); byte {self.at} of the row's "
            f"{self.nbytes} holds it (0x{self.octet:02x}). The other weights of the group: error "
            f"{self.rms_error:.1%} of their size."
        )

    def formula(self) -> str:
        """From weight to code to value, and the bytes of the row."""
        layout = FORMATS[self.fmt].layout
        return "\n".join(
            (
                f"code   {self.code} = {self.binary} in {self.bits} bits: the level nearest to "
                f"{self.snapped.weight:.5f}",
                f"value  {self.snapped.value:.5f},  error {self.snapped.error:+.5f}",
                f"group  {self.block} weights; {layout.note}",
                f"bytes  {self.nbytes} for {COLUMNS} weights = {8 * self.nbytes / COLUMNS:.4g} bits a weight here, "
                f"{layout.bits_per_weight:.4g} in a whole matrix",
            )
        )


def weight_result(row: Tensor, fmt: str, column: int, outlier: int) -> WeightResult:
    """Quantize row [1, 256] with its outlier grown, and look at one of its weights."""
    form, W = FORMATS[fmt], row.clone()
    W[0, OUTLIER] *= outlier
    Q = form.quantize(W)
    q, p = form.packing.unpack(Q.parts, Q.shape)
    W_hat = form.grid.decode(q, p)
    block = min(form.layout.block if form.layout.block > 1 else COLUMNS, COLUMNS)
    block = _SUB_BLOCKS.get(fmt, block)
    first = column // block * block
    inside = [at for at in range(first, first + block) if at != OUTLIER]
    codes, levels = _levels(form, q, p, column)
    stored = Q.to_bytes()
    at = _byte_of(form, q, p, column, codes, stored)
    weights, kept = W[0, first : first + block], W[0, inside]
    named = f"weight {column} in {fmt}" + (f", with an outlier x {outlier}" if outlier > 1 else "")
    snapped = Snapped(  # + 0.0: the floats have a zero below zero as well
        named, tuple(weights.tolist()), tuple(levels), W[0, column].item(), W_hat[0, column].item() + 0.0
    )
    error = float((W_hat[0, inside] - kept).norm() / kept.norm())
    code, bits = int(q[0, column]), CHOICE[fmt]
    return WeightResult(fmt, column, outlier, snapped, code, bits, block, at, stored[at], Q.nbytes, error)


_SUB_BLOCKS = {"q4_k": 32, "q2_k": 16}  # weights that share a scale inside a super-block of 256


def _levels(form: Format, q: Tensor, p: Params, column: int) -> tuple[list[int], list[float]]:
    """Every code that this weight could have, and its value, for the parameters of its group."""
    codes, levels = [], []
    first = -(2 ** (CHOICE[form.name] - 1)) if q.dtype == torch.int8 else 0
    for code in range(first, first + 2 ** CHOICE[form.name]):
        other = q.clone()
        other[0, column] = code
        value = form.grid.decode(other, p)[0, column].item()
        if abs(value) < float("inf"):  # FP8 has two codes that are no number
            codes.append(int(code))
            levels.append(value)
    return codes, levels


def _byte_of(form: Format, q: Tensor, p: Params, column: int, codes: list[int], stored: bytes) -> int:
    """The place of the byte that changes when the weight's code does."""
    other = q.clone()
    other[0, column] = next(code for code in codes if code != int(q[0, column]))
    changed = form.store(other, p).to_bytes()
    return next(at for at, (one, two) in enumerate(zip(stored, changed, strict=True)) if one != two)


def weight_explorer(W: Tensor, fmt: str = "int4_g32", column: int = 3, outlier: int = 1) -> Explorer[WeightResult]:
    """The explorer on the first row of W [n, k]; raises ValueError for rows of fewer than 256 weights."""
    check_weights(W)
    if W.shape[1] < COLUMNS:
        raise ValueError(
            f"a row of {W.shape[1]} weights is too short; the explorer shows {COLUMNS}: take a wider layer"
        )
    row = W.detach()[:1, :COLUMNS].float()
    controls = (
        Control("fmt", "Format", tuple(name for name in CHOICE if name in FORMATS), fmt),
        Control("column", "Weight", tuple(range(PLACES)), column, lambda at: f"number {at}", slider=True),
        Control("outlier", "Outlier", OUTLIERS, outlier, lambda times: f"weight {OUTLIER} x {times}", slider=True),
    )

    @lru_cache(maxsize=512)
    def model(fmt: str, column: int, outlier: int) -> WeightResult:
        return weight_result(row, fmt, column, outlier)

    return Explorer(controls, model, draw)


def draw(result: WeightResult, ghost: WeightResult | None) -> Picture:
    """The picture of this setting, with the levels before."""
    picture = snapped_picture(result.snapped, ghost.snapped if ghost else None)
    before = f" Before: {ghost.snapped.label}: group error {ghost.rms_error:.1%}." if ghost else ""
    picture.words = f"{result.words()}{before}"
    return picture
