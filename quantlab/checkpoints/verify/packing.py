"""Codes: is a layer filled, do its zero points and its scales belong to its codes, and do they lie in the same order?

Laws that hold for every sensible rounding, whatever the method (figures: docs/verify.md):

    filled     no row and no column is one code throughout, unless that means zero. A hole of zero bytes, as an
               interrupted download leaves, is one code
    centred    codes lie around the zero point: mean(q - z) is within a fraction of a step. A GPTQ file of version 1
               that is read as version 2 is off by exactly one
    small      most weights are small: mean |w| is about a third of max |w| of the group. Signs in the wrong place make
               the small weights the largest
    followed   the wider the weights of a group, the higher its scale; for the same spread of weights a high scale means
               codes close together. So log(scale) and log(spread of the codes) go opposite ways (r near -0.8), after
               row and column means are taken out. With scales of other groups they do not
    zeros      zero points go with the mean code of their group (r near 0.95)

The last two also betray an order: AWQ packs eight *rows* into a word, its scales lie in natural order. If the
interleave was forgotten or undone twice, codes meet the scales of a neighbour (orders.py). Orders along a row are for
neighbours.py.
"""

from __future__ import annotations

import torch

from quantlab.checkpoints.verify.layer import OpenLayer
from quantlab.checkpoints.verify.orders import Evidence, Verdict, correlation, reordered, weigh
from quantlab.checkpoints.verify.result import Findings

FOLLOWED = -0.2  # r above this: the scales are those of other groups; rounding gives -0.4 to -0.9
GONE_WITH = 0.5  # r below this: the zero points are those of other groups; rounding gives 0.9 and more
CENTRED = 0.5  # steps
SMALL = 0.6  # mean |w| / max |w|: 0.5 for evenly spread weights, 0.2 to 0.4 for those of models
_ENOUGH = 1000  # groups, for a correlation to say anything
_LINE = 64  # codes in a row or column, for being all alike to say anything


def check_codes(layer: OpenLayer, findings: Findings) -> Evidence | None:
    """The laws above, for one layer whose scales are usable; what the scales say of the order of its rows."""
    if not torch.isfinite(layer.weights).all():
        sentence = f"{layer.name} has codes that are no numbers; quantize the layer again"
        findings.fault("codes", sentence, "codes that are no numbers")
        return None
    if not _filled(layer, findings) or not _groups_full(layer, findings):
        return None
    if _small(layer, findings):
        _centred(layer, findings)
    return _followed(layer, findings)


def scale_evidence(layer: OpenLayer) -> tuple[float, Evidence] | None:
    """r of scales and spread of the codes, and what it says of the order of rows; None where it says nothing."""
    if layer.group is None or layer.group < 8 or layer.shape[1] < 2 * layer.group:
        return None
    scale = layer.scale.clamp(min=torch.finfo(torch.float32).tiny).log()
    if scale.numel() < _ENOUGH:
        return None
    spread = layer.grouped(layer.weights).std(-1).clamp(min=1e-30).log() - scale
    z = scale.numel() ** 0.5
    return correlation(scale, spread), weigh(lambda order: z * correlation(scale, reordered(spread, order)))


def zero_evidence(layer: OpenLayer) -> tuple[float, Evidence] | None:
    """r of zero points and mean codes, and what it says of the order of the zero points."""
    zero = layer.p.get("zero")
    if zero is None or layer.group is None or zero.numel() < _ENOUGH or (zero == zero.flatten()[0]).all():
        return None
    mean = layer.grouped(layer.q.float()).mean(-1)
    z = zero.numel() ** 0.5
    return correlation(zero, mean), weigh(lambda order: z * correlation(mean, reordered(zero, order)))


def _filled(layer: OpenLayer, findings: Findings) -> bool:
    """Rows and columns of codes that are the same throughout and do not mean zero."""
    q = layer.q
    low, high = (int(end) for end in q.aminmax())
    if low == high and q.numel() > 1 and bool((layer.weights != 0).any()):
        what = f"all codes of {layer.name} are {low}; it was not filled: quantize or download it again"
        findings.fault("codes", what, "all codes are the same")
        return False
    for along, lines, values in (("rows", q, layer.weights), ("columns", q.T, layer.weights.T)):
        if lines.shape[1] < _LINE:
            continue
        same = (lines == lines[:, :1]).all(1)
        zero = ~(values != 0).any(1)
        if (same & zero).any():
            what = f"some {along} are zero throughout ({layer.name} has the first): pruned, or a hole of zero bytes"
            findings.unsure("codes", what)
        same &= ~zero
        if same.any():
            first = int(same.nonzero()[0])
            what = (
                f"{int(same.sum()):,} {along} of {layer.name} hold the same code throughout (the first is {first}), "
                "as after an interrupted download; download or quantize it again"
            )
            findings.fault("codes", what, f"{along} of one code")
            return False
    return True


def _groups_full(layer: OpenLayer, findings: Findings) -> bool:
    """With act order every group has as many inputs as config.json says."""
    if "g_idx" not in layer.p or layer.group is None:
        return True
    sizes = torch.bincount(layer.p["g_idx"].long(), minlength=layer.shape[1] // layer.group)
    if (sizes == layer.group).all():
        return True
    group = int((sizes != layer.group).nonzero()[0])
    what = f"g_idx of {layer.name} puts {int(sizes[group])} inputs into group {group}, config.json says {layer.group}"
    findings.fault("codes", f"{what}; quantize the layer again", "sizes of g_idx")
    return False


def _centred(layer: OpenLayer, findings: Findings) -> None:
    zero = layer.p.get("zero")
    if zero is None or layer.group is None or layer.q.numel() < _ENOUGH:
        return
    off = float((layer.grouped(layer.q.float()).mean(-1) - zero).mean())
    if abs(off) > CENTRED and _bits(layer) < 8:
        what = (
            f"the codes of {layer.name} lie {abs(off):.1f} steps {'above' if off > 0 else 'below'} their zero points, "
            "as if a file of GPTQ's version 1 were read as version 2 or the other way round; check checkpoint_format "
            "in config.json, or quantize the layer again"
        )
        findings.fault("codes", what, "off centre")


def _small(layer: OpenLayer, findings: Findings) -> bool:
    """Whether most weights are small beside the largest of their group."""
    if layer.group is None or _bits(layer) < 3 or layer.q.numel() < _ENOUGH:
        return True
    sizes = layer.grouped(layer.weights).abs()
    share = float(sizes.mean(-1).sum() / sizes.amax(-1).sum().clamp(min=1e-30))
    if share > SMALL:
        what = (
            f"the weights of {layer.name} are {share:.0%} of the largest of their group on average, where a third is "
            "usual: signs or zero points are not where its kind has them; quantize the layer again"
        )
        findings.fault("codes", what, "large weights")
    return share <= SMALL


def _followed(layer: OpenLayer, findings: Findings) -> Evidence | None:
    by_scale = scale_evidence(layer)
    for found, follow, limit, what in (
        (by_scale, -1, FOLLOWED, "scales"),
        (zero_evidence(layer), 1, GONE_WITH, "zero points"),
    ):
        if found is None:
            continue
        r, order = found
        if order.verdict is Verdict.WRONG:
            sentence = (
                f"the codes of {layer.name} lie in another order than its {what}: they fit {order.other:,.0f} against "
                f"{order.said:,.0f} in the order '{order.name}'; pack the layer again"
            )
            findings.fault("order", sentence, f"order of {what}")
        elif r * follow < limit * follow:
            sentence = f"the {what} of {layer.name} do not belong to its codes (correlation {r:.2f}); pack it again"
            findings.fault("codes", sentence, f"{what} of other groups")
    return None if by_scale is None else by_scale[1]


def _bits(layer: OpenLayer) -> int:
    bits: int = getattr(layer.fmt.grid, "bits", 8)
    return bits
