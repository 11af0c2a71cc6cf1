"""The tensors of a model, one block after the other, as its checkpoint stores them.

A decoder of the Llama family is one embedding, `layers` identical blocks, a last norm and an output head. In one block,
with h = hidden, d = head_dim, each matrix written [outputs, inputs]:

    input_layernorm      [h]                 q_proj  [heads x d, h]        gate_proj  [intermediate, h]
    k_norm, q_norm       [d]  (Qwen3, Gemma) k_proj  [kv_heads x d, h]     up_proj    [intermediate, h]
    post_attention_      [h]                 v_proj  [kv_heads x d, h]     down_proj  [h, intermediate]
    layernorm                                o_proj  [h, heads x d]

Latent attention (DeepSeek-V2 and V3) replaces k and v, with q = nope + rope and v the sizes of a head:

    kv_a_proj_with_mqa   [kv_rank + rope, h]             q_a_proj [q_rank, h]           o_proj [h, heads x v]
    kv_b_proj            [heads x (nope + v), kv_rank]   q_b_proj [heads x q, q_rank]   and a norm on each rank

A mixture of experts has a router `mlp.gate` [count, h], and gate, up and down of every expert: one TensorSpec stands
for all `copies` of them. Mixtral's file calls them w1, w3 and w2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from quantlab.plan.shapes import ModelShape

Row = tuple[str, tuple[int, ...], str]  # a module's name within its block, the shape of its weight, its kind


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a checkpoint: its name there, its shape, and its kind (one of KINDS); `copies` of the same shape."""

    name: str
    shape: tuple[int, ...]
    kind: str
    layer: int | None = None
    copies: int = 1

    @property
    def weights(self) -> int:
        """How many numbers it holds, copies included."""
        return math.prod(self.shape) * self.copies

    @property
    def role(self) -> str:
        """The module it belongs to, such as `down_proj`."""
        return self.name.split(".")[-2]


def _attention(shape: ModelShape) -> Iterator[Row]:
    h, q, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if shape.fused:
        yield "self_attn.qkv_proj", (q + 2 * kv, h), "attention"
    else:
        yield "self_attn.q_proj", (q, h), "attention"
        yield "self_attn.k_proj", (kv, h), "attention"
        yield "self_attn.v_proj", (kv, h), "attention"
    yield "self_attn.o_proj", (h, q), "attention"
    if shape.qk_norm:
        yield "self_attn.q_norm", (shape.head_dim,), "norm"
        yield "self_attn.k_norm", (shape.head_dim,), "norm"


def _latent_attention(shape: ModelShape) -> Iterator[Row]:
    at, h, heads = shape.latent, shape.hidden, shape.heads
    assert at is not None
    queries = heads * (at.nope + at.rope)
    if at.q_rank is None:
        yield "self_attn.q_proj", (queries, h), "attention"
    else:
        yield "self_attn.q_a_proj", (at.q_rank, h), "attention"
        yield "self_attn.q_a_layernorm", (at.q_rank,), "norm"
        yield "self_attn.q_b_proj", (queries, at.q_rank), "attention"
    yield "self_attn.kv_a_proj_with_mqa", (at.kv_rank + at.rope, h), "attention"
    yield "self_attn.kv_a_layernorm", (at.kv_rank,), "norm"
    yield "self_attn.kv_b_proj", (heads * (at.nope + at.value), at.kv_rank), "attention"
    yield "self_attn.o_proj", (h, heads * at.value), "attention"


def _mlp(shape: ModelShape, width: int, where: str = "mlp", kind: str = "mlp") -> Iterator[Row]:
    if shape.fused:
        yield f"{where}.gate_up_proj", (2 * width, shape.hidden), kind
    else:
        yield f"{where}.gate_proj", (width, shape.hidden), kind
        yield f"{where}.up_proj", (width, shape.hidden), kind
    yield f"{where}.down_proj", (shape.hidden, width), kind


def _feed_forward(shape: ModelShape, layer: int) -> Iterator[Row]:
    experts = shape.experts
    if experts is None or layer in experts.dense:
        yield from _mlp(shape, shape.intermediate)
        return
    yield "mlp.gate", (experts.count, shape.hidden), "router"
    yield from _mlp(shape, experts.intermediate, "mlp.experts.*", "experts")
    if experts.shared:
        yield from _mlp(shape, experts.shared, "mlp.shared_experts")


def _norms(shape: ModelShape) -> Iterator[Row]:
    after = ("pre_feedforward_layernorm", "post_feedforward_layernorm") if shape.post_norms else ()
    for name in ("input_layernorm", "post_attention_layernorm", *after):
        yield name, (shape.hidden,), "norm"


def _block(shape: ModelShape, layer: int) -> Iterator[TensorSpec]:
    """Every tensor of one block."""
    attention = _attention(shape) if shape.latent is None else _latent_attention(shape)
    for module, size, kind in (*attention, *_feed_forward(shape, layer), *_norms(shape)):
        name = f"model.layers.{layer}.{module}"
        copies = shape.experts.count if kind == "experts" and shape.experts is not None else 1
        yield TensorSpec(f"{name}.weight", size, kind, layer, copies)
        if module.split(".")[-1] in shape.biased:
            yield TensorSpec(f"{name}.bias", size[:1], "bias", layer)
        if kind == "router" and shape.experts is not None and shape.experts.corrected:
            yield TensorSpec(f"{name}.e_score_correction_bias", size[:1], "router", layer)


def _edges(shape: ModelShape) -> tuple[TensorSpec, list[TensorSpec]]:
    """The embedding, and what comes after the blocks."""
    after = [TensorSpec("model.norm.weight", (shape.hidden,), "norm")]
    if not shape.tied:
        after.append(TensorSpec("lm_head.weight", (shape.vocab, shape.hidden), "lm_head"))
    if shape.vision:
        after.append(TensorSpec("vision_tower.weight", (shape.vision,), "vision"))
    return TensorSpec("model.embed_tokens.weight", (shape.vocab, shape.hidden), "embedding"), after


@lru_cache(maxsize=64)
def tensors_of(shape: ModelShape) -> tuple[TensorSpec, ...]:
    """Every tensor of the checkpoint, in order."""
    first, after = _edges(shape)
    blocks = (tensor for layer in range(shape.layers) for tensor in _block(shape, layer))
    return (first, *blocks, *after)


@lru_cache(maxsize=128)
def distinct_tensors(shape: ModelShape) -> tuple[tuple[TensorSpec, int], ...]:
    """One block of each sort, and how often it occurs: the same sums as over all tensors, at a fraction of the time."""
    first, after = _edges(shape)
    dense = [layer for layer in (shape.experts.dense if shape.experts else ()) if layer < shape.layers]
    other = next((layer for layer in range(shape.layers) if layer not in dense), None)
    kinds = [(dense[0], len(dense))] if dense else []
    if other is not None:
        kinds.append((other, shape.layers - len(dense)))
    blocks = [(tensor, times) for layer, times in kinds for tensor in _block(shape, layer)]
    return ((first, 1), *blocks, *((tensor, 1) for tensor in after))


def counts_of(shape: ModelShape) -> dict[str, int]:
    """Weights of each kind of tensor."""
    counts: dict[str, int] = {}
    for tensor, times in distinct_tensors(shape):
        counts[tensor.kind] = counts.get(tensor.kind, 0) + times * tensor.weights
    return counts
