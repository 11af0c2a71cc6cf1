"""Tensor parallelism: what each of several equal GPUs holds when every matrix is cut into as many parts.

    q, gate, up, experts    cut by rows: each GPU makes some of the outputs
    o, down                 cut by columns: each GPU takes some of the inputs, and the parts are summed
    embedding, output head  cut by rows of the vocabulary
    k, v and the KV cache   cut by KV heads; with more GPUs than KV heads each head is on several of them
    latent attention        kv_a, q_a and the cache itself serve all heads: whole on every GPU (vLLM)
    norms, routers          whole on every GPU: they are small

This is vLLM's way. llama.cpp and transformers give each GPU whole layers instead: nothing is copied, any number goes,
and the GPUs take turns.

So 16 GPUs do not hold 16 times the KV cache of one: with 8 KV heads every key is stored twice. Not every number of GPUs
goes: it must divide the heads, and the cut must not go through a group of quantized weights (Qwen2.5-72B's 29,568
inputs of down_proj are 231 groups of 128, an odd number: no even split).
"""

from __future__ import annotations

import math

from quantlab.layout import LAYOUTS
from quantlab.plan.blocks import distinct_tensors
from quantlab.plan.memory import kv_cache_bytes, weights_by_role
from quantlab.plan.shapes import LINEAR, ModelShape

_WHOLE = ("q_a_proj", "kv_a_proj_with_mqa")  # of latent attention
_BY_KV_HEAD = ("k_proj", "v_proj")
_BY_COLUMN = ("o_proj", "down_proj")


def weights_on_one(shape: ModelShape, fmt: str, gpus: int, embeddings: str | None = None) -> int:
    """Bytes of weights on each of `gpus`.

    >>> from quantlab.plan.models import shape_of
    >>> whole, half = (weights_on_one(shape_of("llama-3-70b"), "bf16", n) for n in (1, 2))
    >>> 0 < half - whole // 2 < 2**20 * 3  # the norms are on both
    True
    """
    held = 0.0
    for kind, role, nbytes in weights_by_role(shape, fmt, embeddings):
        parts = gpus
        if kind in ("norm", "router") or role in _WHOLE:
            parts = 1
        elif role in _BY_KV_HEAD and shape.latent is None:
            parts = min(gpus, shape.kv_heads)
        held += nbytes / parts
    return math.ceil(held)


def kv_on_one(shape: ModelShape, gpus: int, context: int, batch: int, kv_bits: float, block: int = 1) -> int:
    """Bytes of KV cache on each of `gpus`.

    >>> from quantlab.plan.models import shape_of
    >>> [kv_on_one(shape_of("llama-3-70b"), n, 1024, 1, 16) >> 20 for n in (1, 8, 16)]
    [320, 40, 40]
    """
    return math.ceil(kv_cache_bytes(shape, context, batch, kv_bits, block) / kv_parts(shape, gpus))


def kv_parts(shape: ModelShape, gpus: int) -> int:
    """Into how many different parts the KV cache falls; more GPUs hold copies."""
    return 1 if shape.latent is not None else min(gpus, shape.kv_heads)


def why_not_split(shape: ModelShape, fmt: str, gpus: int) -> str:
    """Why the matrices of a model in this format cannot be cut over so many GPUs; '' where they can.

    >>> from quantlab.plan.models import shape_of
    >>> why_not_split(shape_of("qwen2.5-72b"), "awq_int4_g128", 2)
    'the 29,568 columns of down_proj do not divide into 2 parts of whole groups of 128'
    """
    if shape.heads % gpus:
        return f"{shape.heads} attention heads do not divide by {gpus} GPUs"
    if shape.kv_heads % gpus and gpus % shape.kv_heads:
        return f"{shape.kv_heads} KV heads and {gpus} GPUs do not divide by each other"
    group = LAYOUTS[fmt].block if fmt in LAYOUTS and fmt.endswith(tuple("0123456789")) and "_g" in fmt else 1
    for tensor, _ in distinct_tensors(shape):
        if tensor.kind in LINEAR and tensor.role in _BY_COLUMN and (columns := tensor.shape[-1]) % (gpus * group):
            parts = f"{gpus} parts of whole groups of {group}" if group > 1 else f"{gpus} equal parts"
            return f"the {columns:,} columns of {tensor.role} do not divide into {parts}"
    return ""
