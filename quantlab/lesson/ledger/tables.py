"""Checks of lesson 1: the guide's tables (M8, M9, M12, M13), recomputed row by row from real configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantlab.layout import layout
from quantlab.lesson.ledger.fitting import gb
from quantlab.lesson.ledger.verdicts import Finding, Part, near
from quantlab.plan.memory import GB, MemoryPlan, kv_bytes_per_token, memory, tokens_in, weights_bytes


def _saved(before: MemoryPlan, after: MemoryPlan, with_kv: bool) -> float:
    """Percent of memory that the second plan saves, by weights alone or with the KV cache."""
    kv = before.kv_bytes if with_kv else 0
    return 100 * (1 - (after.weights_bytes + kv) / (before.weights_bytes + kv))


def m8(
    models: Mapping[str, str], before: str, after: str, says_percent: float, says_band: Sequence[float], batch: int,
    context: int, margin: float,
) -> Finding:  # fmt: skip
    """How many percent of memory 4 bits save, for each model, with and without a KV cache."""
    low, high = says_band
    parts, bare, full = [], [], []
    for label, model in models.items():
        plans = memory(model, before, context, batch), memory(model, after, context, batch)
        bare.append(weights := _saved(*plans, with_kv=False))
        full.append(loaded := _saved(*plans, with_kv=True))
        for what, saved in (("weights alone", weights), (f"with the KV cache of {batch} x {context:,} tokens", loaded)):
            said = abs(saved - says_percent) <= margin or low <= round(saved) <= high
            parts.append(Part(f"{label} saves {saved:.0f}% {what}", said))
    figure = (
        f"weights alone: {min(bare):.0f} to {max(bare):.0f}%; "
        f"with the KV cache of {batch} x {context:,} tokens: {min(full):.0f} to {max(full):.0f}%"
    )
    method = (
        f"1 - ({after} + KV) / ({before} + KV), the KV cache in 16 bits in both, against "
        f"about {says_percent:g}% (within {margin:g} points) or {low:g} to {high:g}%"
    )
    return Finding(tuple(parts), figure, method)


def m9(
    rows: Mapping[str, Sequence[str | float]], before: str, after: str, batch: int, context: int, tolerance: float,
) -> Finding:  # fmt: skip
    """A table of memory before and after: is it weights alone, and is there room for the KV cache it mentions?"""
    parts, ours, kv = [], [], []
    for label, (name, says_before, says_after) in rows.items():
        model, said = str(name), (float(says_before), float(says_after))
        wide, narrow = weights_bytes(model, before), weights_bytes(model, after)
        cache = memory(model, before, context, batch).kv_bytes
        ours.append(f"{label} {wide / GB:.1f} -> {narrow / GB:.1f}")
        kv.append(f"{cache / GB:.1f}")
        for what, nbytes in (("weights alone", wide), ("with KV cache", wide + cache)):
            says = f"{label} {before} {what} {gb(nbytes)} ({said[0]:g} claimed)"
            parts.append(Part(says, near(nbytes / GB, said[0], tolerance)))
        left = tokens_in(said[1] * GB - narrow, model)
        says = f"{label} {after}: {said[1]:g} claimed is {gb(narrow)} and {left:,} tokens, {batch} x {context:,} needed"
        parts.append(Part(says, said[1] * GB >= narrow + cache))
    load = f"the KV cache of {batch} x {context:,} tokens"
    figure = f"weights alone, GB: {', '.join(ours)}; {load} adds {', '.join(kv)} GB"
    return Finding(tuple(parts), figure, "Every tensor of each config in its format; KV cache in 16 bits")


def m12(
    model: str, kv_bits: float, batches: Sequence[int], contexts: Sequence[int], says_gb: Sequence[float],
) -> Finding:  # fmt: skip
    """How large the KV cache is at each batch and context, against the claimed range."""
    low, high = says_gb
    parts = []
    for batch in batches:
        for context in contexts:
            nbytes = memory(model, "bf16", context, batch, kv_bits=kv_bits).kv_bytes
            parts.append(Part(f"{batch} x {context:,} tokens = {gb(nbytes)}", low * GB <= nbytes <= high * GB))
    each = kv_bytes_per_token(model, kv_bits)
    figure = (
        f"{each / 1024:g} KiB a token: {low:g} GB is {low * GB / each:,.0f} tokens, "
        f"{high:g} GB is {high * GB / each:,.0f}, over all texts together"
    )
    method = f"2 x layers x KV heads x head_dim x {kv_bits:g} / 8 x batch x context, for {model}"
    return Finding(tuple(parts), figure, method)


def m13(says_bytes: Mapping[str, float], model: str, whole: Sequence[str], tolerance: float) -> Finding:
    """Bytes a weight with the scales counted, and over the whole model."""
    parts = []
    for fmt, claimed in says_bytes.items():
        bits = layout(fmt).bits_per_weight
        says = f"{fmt}: {bits:.4g} bits = {bits / 8:.3f} bytes a weight ({claimed:g} claimed)"
        parts.append(Part(says, near(bits / 8, claimed, tolerance)))
    layers = ", ".join(f"{fmt} {layout(fmt).bits_per_weight:.4g}" for fmt in says_bytes)
    files = ", ".join(f"{fmt} {memory(model, fmt, 1).bits_per_weight:.2f}" for fmt in whole)
    figure = f"bits a weight in the layers: {layers}; over the whole of {model}: {files}"
    return Finding(tuple(parts), figure, "Stored bytes of a block / weights in it, scales and zero points included")
