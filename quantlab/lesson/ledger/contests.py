"""Checks of lesson 3 that are measured on the bundled model, now, with error bars (F1, F2, F3, F11, F15).

A difference counts when it is larger than `sure` standard errors, paired token by token. What papers print, and what
the libraries did when tools/bench_methods.py ran them, stands beside our own figures and is marked as such.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from quantlab.core import Format, LayerStats, QuantizedTensor
from quantlab.formats.catalog import get, quantize_tensor
from quantlab.lesson.ledger.verdicts import Finding, Part
from quantlab.lesson.lesson2.story import difference, story_model
from quantlab.lesson.lesson3 import calibrations, recorded
from quantlab.lesson.lesson3.contest import CALIBRATED, Entry, enter, left_of
from quantlab.methods.awq import awq, awq_scale
from quantlab.methods.gptq import gptq
from quantlab.methods.rtn import rtn
from quantlab.methods.salience import largest

MODEL = "the story model"


def f1(layer: str, fmt: str, share: float, planted: float) -> Finding:
    """What each method looks at: GPTQ at how inputs go together, AWQ at how large they are, NF4 at nothing."""
    model, form = story_model(), get(fmt)
    W, stats = model.layers[layer], model.stats[layer]
    k = W.shape[1]
    blind = LayerStats(1, torch.eye(k), torch.ones(k), torch.ones(k))
    plain, without, with_H = (
        _codes(Q) for Q in (rtn(W, None, form), gptq(W, blind, form), gptq(W, stats, form))
    )  # fmt: skip
    same, moved = float((without == plain).float().mean()), float((with_H != plain).float().mean())
    loud = largest(stats.x_absmean, share)
    t = torch.ones(k)
    t[loud] = 1 / planted
    scale = awq_scale([W * t], stats.scaled(t), form)
    ratio = float(scale[loud].median() / scale.median())
    nothing = quantize_tensor(W, "nf4").to_bytes() == rtn(W, stats, get("nf4")).to_bytes()
    parts = (
        Part(f"with H = 1 GPTQ's codes are those of round to nearest ({same:.1%}), with the layer's own H "
             f"{moved:.1%} of them are others", same > 0.999 and moved > 0.01),
        Part(f"AWQ scales the loudest {share:.0%} of the inputs (x {planted:g}) up by {ratio:.2f} times the middle one",
             ratio > 1),
        Part(f"NF4 stores {'the same' if nothing else 'other'} bytes with statistics and without", nothing),
    )  # fmt: skip
    figure = f"GPTQ: {moved:.1%} of the codes depend on H; AWQ: loud columns x {ratio:.2f}; NF4: no statistics"
    return Finding(parts, figure, f"{layer} of {MODEL}, {fmt}")


def _codes(Q: QuantizedTensor) -> Tensor:
    return Q.fmt.packing.unpack(Q.parts, Q.shape)[0]


def f2(
    fmts: Sequence[str], says_awq_percent: Sequence[float], says_gptq_percent: Sequence[float], sure: float,
    table: Mapping[str, Sequence[float]], source: str,
) -> Finding:  # fmt: skip
    """What AWQ and GPTQ lose, and whether AWQ is always the better one."""
    parts, figures = [], []
    for fmt in fmts:
        a, g = enter("awq", fmt), enter("gptq", fmt)
        gain = difference(g.quality, a.quality)
        parts.append(Part(f"{MODEL}, {fmt}: KL {a.kl} by AWQ, {g.kl} by GPTQ (loudest column first, static groups)",
                          gain[0] > sure * gain[1]))  # fmt: skip
        figures.append(f"{fmt}: KL {a.kl} by AWQ, {g.kl} by GPTQ")
        for name, one, (low, high) in (("AWQ", a, says_awq_percent), ("GPTQ", g, says_gptq_percent)):
            rise, error = one.percent
            says = f"{MODEL}, {fmt}: {name} raises the perplexity by {rise:.1f} ± {error:.1f}%"
            parts.append(Part(says, rise + sure * error >= low and rise - sure * error <= high))
    parts += _recorded_rivals(sure)
    for model, (full, by_gptq, by_order, by_awq) in table.items():
        says = f"{model} ({source}): {full:g} -> {by_gptq:g} by GPTQ, {by_order:g} with act order, {by_awq:g} by AWQ"
        parts.append(Part(says, by_awq < min(by_gptq, by_order)))
    return Finding(tuple(parts), "; ".join(figures), "The same sixteen stories, groups and levels for both")


def _recorded_rivals(sure: float) -> list[Part]:
    """AutoAWQ against the GPTQ of two libraries, as the benchmark recorded them."""
    parts = []
    for bits in (4, 3):
        kept = recorded.of("tiny", bits)
        for rival in ("llmcompressor", "gptqmodel"):
            a, g = kept["autoawq"], kept[rival]
            says = f"{recorded.MARK}, {bits} bits: KL {a.kl:.4f} ± {a.kl_stderr:.4f} by AutoAWQ, {g.kl:.4f} by {rival}"
            parts.append(Part(says, g.kl - a.kl > sure * (a.kl_stderr**2 + g.kl_stderr**2) ** 0.5))
    return parts


def f3(layers: Sequence[str], fmt: str, repeats: float) -> Finding:
    """Seconds to make AWQ's and GPTQ's weights: ours on some layers now, the libraries' on a model as recorded."""
    ours = {name: sum(_seconds(layer, fmt, name, int(repeats)) for layer in layers) for name in _MAKERS}
    parts = [Part(f"{len(layers)} layers of {MODEL}, now: AWQ {ours['AWQ']:.2f} s, GPTQ {ours['GPTQ']:.2f} s",
                  ours["AWQ"] < ours["GPTQ"])]  # fmt: skip
    kept = recorded.of("tiny", 4)
    for rival in ("llmcompressor", "gptqmodel"):
        a, g = kept["autoawq"].quantize_s, kept[rival].quantize_s
        parts.append(Part(f"{recorded.MARK}: AutoAWQ {a:.0f} s, {rival} {g:.0f} s", a < g))
    figure = (
        f"AWQ takes {ours['AWQ'] / ours['GPTQ']:.1f} times as long as GPTQ here; AutoAWQ "
        f"{kept['autoawq'].quantize_s / kept['llmcompressor'].quantize_s:.0f} times as long as llm-compressor's GPTQ"
    )
    return Finding(tuple(parts), figure, f"{fmt}, medians, calibration left out; {recorded.provenance()}")


def _scaled_and_clipped(W: Tensor, stats: LayerStats, fmt: Format) -> QuantizedTensor:
    """All of AWQ: the search for a scale, the search for ranges, rounding."""
    s = awq_scale([W], stats, fmt)
    return awq(W * s, stats.scaled(s), fmt)


_MAKERS: Mapping[str, Callable[[Tensor, LayerStats, Format], QuantizedTensor]] = {
    "AWQ": _scaled_and_clipped,
    "GPTQ": gptq,
}


@lru_cache(maxsize=64)
def _seconds(layer: str, fmt: str, method: str, repeats: int) -> float:
    """Median seconds of a method on a layer."""
    model, form, times = story_model(), get(fmt), []
    W, stats = model.layers[layer], model.stats[layer]
    for _ in range(repeats):
        started = time.perf_counter()
        _MAKERS[method](W, stats, form)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def f11(fmt: str, wrong: Sequence[str], says_samples: Sequence[float], few: float, many: float, sure: float) -> Finding:
    """What the wrong text costs GPTQ and AWQ, and what more text brings."""
    plain, right = enter("rtn", fmt), enter("gptq", fmt)
    parts, figures = [], [f"GPTQ on stories {right.kl}", f"round to nearest {plain.kl}"]
    for kind in wrong:
        one = enter("gptq", fmt, calibrations.text(kind))
        loss = difference(one.quality, right.quality)
        parts.append(Part(f"GPTQ on {kind}: KL {one.kl}, {_plus_minus(loss)} more", loss[0] > sure * loss[1]))
        figures.append(f"on {kind} {one.kl}")
    code, stories = (enter("awq", fmt, calibrations.text(kind)) for kind in (wrong[0], "stories"))
    loss = difference(code.quality, stories.quality)
    parts.append(Part(f"AWQ on {wrong[0]}: KL {code.kl}, {_plus_minus(loss)} more", loss[0] > sure * loss[1]))
    counts = [int(few), CALIBRATED, int(many)]
    by_count = {count: _with(count, fmt) for count in counts}
    for less, more in pairwise(counts):
        gain = difference(by_count[less].quality, by_count[more].quality)
        says = f"{more} stories instead of {less}: KL falls by {_plus_minus(gain)}"
        parts.append(Part(says, gain[0] > sure * gain[1]))
    enough, error = left_of(by_count[counts[1]], by_count[counts[2]])
    says = (
        f"{counts[1]} stories, far below the {says_samples[0]:g} to {says_samples[1]:g} samples claimed, do "
        f"{enough:.2f} ± {error:.2f} times the damage of {counts[2]}"
    )
    parts.append(Part(says, enough > 2))
    figures.append(f"on {few:g} of the stories {by_count[counts[0]].kl}, on {many:g} {by_count[counts[2]].kl}")
    return Finding(tuple(parts), f"KL divergence: {'; '.join(figures)}", f"{fmt}, measured on stories; {MODEL}")


def _with(count: int, fmt: str) -> Entry:
    text = None if count == CALIBRATED else calibrations.text(f"{count} stories")
    return enter("gptq", fmt, text)


def f15(fmt: str, uneven: str, sure: float) -> Finding:
    """NF4 against AWQ at equal bits for inference; and whether a model in NF4 learns."""
    from quantlab.lesson.ledger.finetuning import learned

    a, n = enter("awq", fmt), enter("rtn", uneven)
    gain = difference(n.quality, a.quality)
    parts = (
        Part(f"both take {a.bits_per_weight:.2f} and {n.bits_per_weight:.2f} bits a weight",
             abs(a.bits_per_weight - n.bits_per_weight) < 0.1),
        Part(f"inference: KL {n.kl} by {uneven}, {a.kl} by AWQ in {fmt}: {_plus_minus(gain)} less",
             gain[0] > sure * gain[1]),
        learned(sure),
    )  # fmt: skip
    figure = f"KL {n.kl} by {uneven}, {a.kl} by AWQ; {parts[2].says}"
    return Finding(parts, figure, f"{MODEL}; a model whose weights rest in NF4, trained by QLoRA")


def _plus_minus(value: tuple[float, float]) -> str:
    return f"{value[0]:.4f} ± {value[1]:.4f}"
