"""Checks of lesson 2 that are computed or cited: levels (R1 to R3), and the first INT4 results (R8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from quantlab.errors import UsageError
from quantlab.formats.catalog import get
from quantlab.formats.nf4 import NF4_LEVELS
from quantlab.lesson.ledger.verdicts import Finding, Part, near
from quantlab.lesson.lesson2.own_matrix import layer_weights
from quantlab.lesson.lesson2.story import grid_of


def whole_bits(bits: float) -> int:
    """The input `bits` as a whole number from 2 to 8."""
    if bits != int(bits) or not 2 <= bits <= 8:
        raise UsageError(f"bits must be a whole number from 2 to 8, it is {bits!r}")
    return int(bits)


def r1(bits: float, says_levels: int, layer: str, group: int) -> Finding:
    """How many levels there are, and whether each weight of a real layer goes to the nearest."""
    W, grid = layer_weights(layer), grid_of(whole_bits(bits), group)
    p = grid.fit(W)
    q = grid.encode(W, p)
    step = p["scale"].repeat_interleave(group, 1)
    farthest = float(((grid.decode(q, p) - W).abs() / step).max())
    slack = 2 ** (bits - 1) * 2.0**-11  # the scale is a float16, so a level that many steps out is off by so much
    levels, used = 2 ** int(bits), int(q.flatten().bincount().count_nonzero())
    parts = (
        Part(f"{bits:g} bits have 2^{bits:g} = {levels} values ({says_levels} claimed)", levels == says_levels),
        Part(f"no weight of {layer} is farther than {farthest:.3f} steps from its level", farthest <= 0.5 + slack),
    )
    groups = W.numel() // group
    figure = (
        f"{levels} levels in each of {groups:,} groups, {used} of the codes in use; at most {farthest:.2f} steps off"
    )
    return Finding(parts, figure, f"{layer} of the story model, rounded in groups of {group}")


def r2(weight: float, says_value: float, says_error: float, tolerance: float) -> Finding:
    """Where NF4 puts a weight whose block has an absmax of 1."""
    if weight > 1:
        raise UsageError(f"weight must be at most 1, the largest of its block; it is {weight:g}")
    value = float(NF4_LEVELS[(NF4_LEVELS - weight).abs().argmin()])
    below, above = NF4_LEVELS[weight >= NF4_LEVELS].max().item(), NF4_LEVELS[weight <= NF4_LEVELS].min().item()
    missed, sixteenth = abs(value - weight), round(says_value * 16) / 16
    parts = (
        Part(f"{weight:g} goes to {value:.4f} ({says_value:g} claimed)", near(value, says_value, tolerance), True),
        Part(f"the error is {missed:.4f} ({says_error:g} claimed)", near(missed, says_error, tolerance)),
    )
    origin = f"; {says_value:g} is {round(says_value * 16)}/16" if sixteenth == says_value else ""
    figure = f"{value:.4f}, error {missed:.4f}; the levels beside {weight:g} are {below:.4f} and {above:.4f}{origin}"
    return Finding(parts, figure, "The nearest of bitsandbytes' 16 levels, in a block whose largest |w| is 1")


def r3(uneven: str, claimed_uneven: str, within: float, margin: float) -> Finding:
    """Where two formats have their levels."""
    parts, shares = [], []
    for name in (uneven, claimed_uneven):
        levels = _levels(name)
        steps = levels.diff()
        spread = float(steps.max() / steps.min())
        near_zero = float((levels.abs() <= within * levels.abs().max()).float().mean())
        shares.append(f"{name} {near_zero:.0%}")
        says = f"{name}: its largest step is {spread:.3g} times its smallest"
        parts.append(Part(says, spread > 1 + margin))
    figure = f"levels within {within:g} of the largest: {', '.join(shares)}; {'; '.join(part.says for part in parts)}"
    return Finding(tuple(parts), figure, "The levels of one group, from the formats themselves")


def _levels(name: str) -> torch.Tensor:
    """The 16 levels of a group, rising."""
    fmt = get(name)
    W = torch.linspace(-1, 1, 256)[None]
    p = fmt.grid.fit(W)
    rows = [fmt.grid.decode(torch.full_like(fmt.grid.encode(W, p), code), p)[0, :1] for code in range(16)]
    return torch.tensor(sorted(set(torch.cat(rows).tolist())))  # a float's two zeros are one level


def r8(rows: Sequence[Sequence[str | float]], significant_percent: float, sources: Mapping[str, str]) -> Finding:
    """Perplexities that the papers themselves print: [model, how it was rounded, source, 16 bits, 4 bits]."""
    parts = []
    for model, how, source, full, rounded in rows:
        lost = 100 * (float(rounded) / float(full) - 1)
        says = f"{model}, {how} ({source}): {full:g} -> {rounded:g}, {lost:+.1f}%"
        parts.append(Part(says, lost > significant_percent))
    few = [part.says for part in parts if not part.right]
    figure = (
        f"{len(parts) - len(few)} of {len(parts)} published results lose more than {significant_percent:g}% "
        f"perplexity; not: {'; '.join(few) or 'none'}"
    )
    cited = "; ".join(f"{key}: {value}" for key, value in sources.items())
    return Finding(tuple(parts), figure, f"Round-to-nearest in 4 bits, WikiText-2 perplexity, cited from {cited}")
