"""The shape of a transformer, tensor by tensor: everything that its memory follows from.

A decoder of the Llama family is one embedding, `layers` identical blocks, a last norm and an output head. In one block,
with h = hidden, d = head_dim, each matrix written [outputs, inputs] as checkpoints store it:

    input_layernorm      [h]                 q_proj  [heads x d, h]        gate_proj  [intermediate, h]
    k_norm, q_norm       [d]  (Qwen3)        k_proj  [kv_heads x d, h]     up_proj    [intermediate, h]
    post_attention_      [h]                 v_proj  [kv_heads x d, h]     down_proj  [h, intermediate]
    layernorm                                o_proj  [h, heads x d]

Grouped-query attention is `kv_heads < heads`: fewer keys and values, hence a smaller KV cache. `head_dim` is its own
number: Qwen3-4B has hidden / heads = 80 and a head_dim of 128. Left out here: mixtures of experts, latent attention,
windows in some layers only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from quantlab.errors import UsageError

KINDS = ("embedding", "lm_head", "attention", "mlp", "norm", "bias")
LINEAR = ("attention", "mlp")  # the kinds that a quantizer touches by default


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a checkpoint: its name there, its shape, and its kind (one of KINDS)."""

    name: str
    shape: tuple[int, ...]
    kind: str
    layer: int | None = None

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def role(self) -> str:
        """The module it belongs to, such as `down_proj`."""
        return self.name.split(".")[-2]


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a config.json that memory follows from.

    `window` is a sliding attention window in tokens (None: every token is kept), `context` the longest text the model
    was made for, `biased` the projections that carry a bias.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool = False
    window: int | None = None
    qk_norm: bool = False
    biased: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        sizes = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab", "context")
        for field in (*sizes, *(("window",) if self.window is not None else ())):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{self.name}: {field} must be a whole number of at least 1, it is {value!r}")
        if self.heads % self.kv_heads:
            raise UsageError(
                f"{self.name}: {self.heads} attention heads cannot share {self.kv_heads} KV heads evenly; "
                "kv_heads must divide heads"
            )

    def tensors(self) -> tuple[TensorSpec, ...]:
        """Every tensor of the checkpoint, in order; a tied output head is not stored twice."""
        return _tensors(self)

    @property
    def parameters(self) -> int:
        """All weights, tied ones counted once: the number that a model card gives."""
        return sum(tensor.weights for tensor in self.tensors())

    @property
    def linear_parameters(self) -> int:
        """The weights of the projections inside the blocks: what a quantizer touches by default."""
        return sum(tensor.weights for tensor in self.tensors() if tensor.kind in LINEAR)

    @property
    def kv_group(self) -> int:
        """How many query heads share one key and value head (1: multi-head attention)."""
        return self.heads // self.kv_heads


def _block(shape: ModelShape) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """(module, shape, kind) of every weight in one block."""
    h, m = shape.hidden, shape.intermediate
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norm_of_heads: tuple[tuple[str, tuple[int, ...], str], ...] = (
        ("self_attn.q_norm", (shape.head_dim,), "norm"),
        ("self_attn.k_norm", (shape.head_dim,), "norm"),
    )
    return (
        ("self_attn.q_proj", (q, h), "attention"),
        ("self_attn.k_proj", (kv, h), "attention"),
        ("self_attn.v_proj", (kv, h), "attention"),
        ("self_attn.o_proj", (h, q), "attention"),
        *(norm_of_heads if shape.qk_norm else ()),
        ("mlp.gate_proj", (m, h), "mlp"),
        ("mlp.up_proj", (m, h), "mlp"),
        ("mlp.down_proj", (h, m), "mlp"),
        ("input_layernorm", (h,), "norm"),
        ("post_attention_layernorm", (h,), "norm"),
    )


@lru_cache(maxsize=64)
def _tensors(shape: ModelShape) -> tuple[TensorSpec, ...]:
    specs = [TensorSpec("model.embed_tokens.weight", (shape.vocab, shape.hidden), "embedding")]
    block = _block(shape)
    for layer in range(shape.layers):
        for module, size, kind in block:
            name = f"model.layers.{layer}.{module}"
            specs.append(TensorSpec(f"{name}.weight", size, kind, layer))
            if module.split(".")[-1] in shape.biased:
                specs.append(TensorSpec(f"{name}.bias", size[:1], "bias", layer))
    specs.append(TensorSpec("model.norm.weight", (shape.hidden,), "norm"))
    if not shape.tied:
        specs.append(TensorSpec("lm_head.weight", (shape.vocab, shape.hidden), "lm_head"))
    return tuple(specs)
