"""Checks of lesson 2 that are measured on the bundled model, now, with error bars (R4 to R7), beside the papers' own.

A difference counts when it is larger than `sure` standard errors. The bundled model has 11 million parameters and no
outliers of the kind that large models have; `planted` says how large those are that are planted for comparison
(quantlab/lesson/lesson2/salience.py: what the model computes stays the same).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch

from quantlab.errors import UsageError
from quantlab.evaluate.quality import Quality
from quantlab.lesson.ledger.rounding import whole_bits
from quantlab.lesson.ledger.verdicts import Finding, Part
from quantlab.lesson.lesson2.accumulation import inside_one_output, through_the_layers
from quantlab.lesson.lesson2.awq_story import awq_quality
from quantlab.lesson.lesson2.salience import columns, model_quality
from quantlab.lesson.lesson2.story import difference, story_model

OPT_MODEL = "the story model as trained"


def r4(bits: float, group: int, layer: str, sure: float) -> Finding:
    """Whether rounding errors add up: inside one output of a layer, and through all layers."""
    one, all_of_them = inside_one_output(layer, whole_bits(bits), group), through_the_layers(int(bits), group)
    inside, through = one.of_straight, all_of_them.of_straight
    walk, largest = all_of_them.of_independent, max(all_of_them.alone.values())
    parts = (
        Part(f"the {one.terms} errors of one output come to {_share(inside)} of their straight sum (independent "
             f"signs: {one.walk:.1%})", inside[0] + sure * inside[1] >= 1),
        Part(f"the errors of {len(all_of_them.alone)} half blocks come to {_share(through)} of their straight sum, "
             f"which is {_share(walk)} of what independent errors give", through[0] + sure * through[1] >= 1),
        Part(f"the last hidden state is {all_of_them.together:.1%} off, more than by any half block alone "
             f"({largest:.1%})", all_of_them.together > largest),
    )  # fmt: skip
    figure = (
        f"together {_share(walk)} of independent errors, {_share(through)} of a straight sum; "
        f"inside one output {_share(inside)} of a straight sum"
    )
    return Finding(parts, figure, f"{int(bits)} bits, groups of {group}, round to nearest, on the story model")


def r5(
    bits: float, share: float, planted: float, repaired: float, sure: float, table: Mapping[str, Sequence[float]],
    source: str,
) -> Finding:  # fmt: skip
    """Whether 1% of the columns carries most of the damage, and whether the activations find them."""
    bits = whole_bits(bits)
    if share > 0.5:
        raise UsageError(f"share must be at most 0.5, it is {share:g}")
    parts, kept = [], {}
    for label, loud in ((OPT_MODEL, 1.0), (f"with outliers x {planted:g}", planted)):
        bare = model_quality(None, None, loud, bits, share)
        by = {choice: model_quality(choice, None, loud, bits, share) for choice in ("activations", "weights", "chance")}
        for other in ("weights", "chance"):
            gain = difference(by[other], by["activations"])
            says = f"{label}: by activations beats by {other} by {_plus_minus(gain)} nats"
            parts.append(Part(says, gain[0] > sure * gain[1]))
        kept[label] = 1 - by["activations"].kl_mean / bare.kl_mean
        parts.append(Part(f"{label}: {share:.0%} of the columns repairs {kept[label]:.0%} of the damage",
                          kept[label] >= repaired))  # fmt: skip
    for model, (full, bare_ppl, act, weight, chance) in table.items():
        done = [(bare_ppl - ppl) / (bare_ppl - full) for ppl in (act, weight, chance)]
        says = f"{model} ({source}): repaired by activations {done[0]:.0%}, weights {done[1]:.0%}, chance {done[2]:.0%}"
        parts.append(Part(says, done[0] >= repaired > max(done[1:])))
    told = ", ".join(f"{label} {value:.0%}" for label, value in kept.items())
    figure = f"damage (KL divergence) repaired by keeping {share:.0%} in 16 bits by activations: {told}"
    return Finding(tuple(parts), figure, f"{bits} bits, groups of 128, with zero points; the rest rounded to nearest")


def r6(
    bits: float, share: float, planted: float, small_scale: float, large_scale: float, sure: float,
    table: Mapping[str, float], source: str,
) -> Finding:  # fmt: skip
    """Scaling up and down: exact before rounding; what it does to the error, by the size of the scale."""
    bits = whole_bits(bits)
    if min(small_scale, large_scale) <= 1 or small_scale >= large_scale:
        raise UsageError(f"scales must be above 1 and rise, they are {small_scale:g} and {large_scale:g}")
    exact = _identity(share, math.pi)
    parts = [
        Part(
            f"(W s)(X / s) differs from W X by {exact:.0e} of its size in float64 (s = {math.pi:.2f})",
            exact < 1e-12,
            True,
        )
    ]
    figures = []
    for label, loud in ((OPT_MODEL, 1.0), (f"with outliers x {planted:g}", planted)):
        bare = model_quality(None, None, loud, bits, share)
        for scale in (small_scale, large_scale):
            gain = difference(bare, model_quality("activations", scale, loud, bits, share))
            says = f"{label}, x {scale:g}: KL {bare.kl_mean:.3f} falls by {_plus_minus(gain)}"
            parts.append(Part(says, gain[0] > sure * gain[1]))
            figures.append(f"{label}, x {scale:g}: {-gain[0]:+.3f} ± {gain[1]:.3f}")
    bare_ppl = table["1"]
    for scale_of, ppl in table.items():
        if scale_of != "1":
            parts.append(Part(f"OPT-6.7B, x {scale_of} ({source}): {bare_ppl:g} -> {ppl:g}", ppl < bare_ppl))
    figure = f"exact before rounding; KL divergence afterwards: {'; '.join(figures)}"
    method = f"{bits} bits, groups of 128, with zero points; {share:.0%} of the columns, chosen by activations, scaled"
    return Finding(tuple(parts), figure, method)


@lru_cache(maxsize=8)
def _identity(share: float, scale: float) -> float:
    """Relative difference of (W s)(X / s) and W X on a real layer and real inputs."""
    model, name = story_model(), "model.layers.1.mlp.down_proj"
    W, X = model.layers[name].double(), model.inputs(name, 1)[0].double()
    s = torch.ones(W.shape[1], dtype=torch.float64)
    s[columns("activations", name, model.layers[name], model.stats[name], share=share)] = scale
    plain = X @ W.T
    return float(((X / s) @ (W * s).T - plain).norm() / plain.norm())


def r7(fmt: str, sure: float, table: Mapping[str, Sequence[float]], source: str) -> Finding:
    """Round to nearest against AWQ in one format: bytes, and the KL divergence of the story model."""
    (plain, plain_bytes), (scaled, scaled_bytes) = (awq_quality(fmt, search) for search in (False, True))
    gain = difference(plain, scaled)
    parts = [
        Part(f"both take {plain_bytes:,} bytes (AWQ {scaled_bytes:,})", plain_bytes == scaled_bytes, True),
        Part(f"{OPT_MODEL}: KL {_quality(plain)} by round to nearest, {_quality(scaled)} by AWQ: "
             f"{_plus_minus(gain)} less", gain[0] > sure * gain[1]),
    ]  # fmt: skip
    for model, (full, rtn, awq) in table.items():
        says = f"{model} ({source}): {full:g} in 16 bits, {rtn:g} by round to nearest, {awq:g} by AWQ"
        parts.append(Part(says, rtn > awq))
    figure = f"{plain_bytes:,} bytes either way; KL {_quality(plain)} -> {_quality(scaled)}, {_plus_minus(gain)} less"
    return Finding(tuple(parts), figure, f"{fmt}, measured on {len(plain.kl):,} tokens, difference paired by token")


def _share(value: tuple[float, float]) -> str:
    return f"{value[0]:.1%} ± {value[1]:.1%}"


def _plus_minus(value: tuple[float, float]) -> str:
    return f"{value[0]:.4f} ± {value[1]:.4f}"


def _quality(quality: Quality) -> str:
    return f"{quality.kl_mean:.4f} ± {quality.kl_stderr:.4f}"
