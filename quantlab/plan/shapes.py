"""The shape of a transformer: the numbers that its memory follows from. Its tensors are in quantlab.plan.blocks.

Where families differ, and what it changes:

    kv_heads < heads       grouped queries share keys and values: a smaller KV cache
    head_dim               its own number: Qwen3-4B has hidden / heads = 80 and a head_dim of 128
    window, full_layers    a sliding window keeps its last tokens only; Gemma lets every 2nd or 6th layer keep all
    experts                a router picks `per_token` of `count` small MLPs: all in memory, few of them read
    latent                 DeepSeek's attention caches one compressed vector for all heads (`kv_rank + rope` numbers)
    fused, post_norms      Phi-3 stores q, k, v (and gate, up) as one matrix; Gemma 2 and 3 have four norms in a block
    vision                 a tower for pictures beside the text model, never quantized here
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from quantlab.errors import UsageError

if TYPE_CHECKING:
    from quantlab.plan.blocks import TensorSpec

KINDS = ("embedding", "lm_head", "attention", "mlp", "experts", "router", "norm", "bias", "vision")
LINEAR = ("attention", "mlp", "experts")  # the kinds that a quantizer touches by default


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: `per_token` of `count` MLPs of `intermediate` run for a token.

    `shared` is the width of an MLP that always runs, `dense` the layers that have a plain MLP instead, `corrected`
    whether the router carries a bias for balance (DeepSeek-V3).
    """

    count: int
    per_token: int
    intermediate: int
    shared: int = 0
    dense: tuple[int, ...] = ()
    corrected: bool = False


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: keys and values come out of one vector of `kv_rank` numbers, and `rope` positions.

    `q_rank` compresses the queries likewise (None: not), `nope` and `value` are the sizes of a head.
    """

    kv_rank: int
    q_rank: int | None
    nope: int
    rope: int
    value: int


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a config.json that memory follows from.

    `window` is a sliding attention window in tokens (None: every token is kept), in all but `full_layers` layers;
    `context` the longest text the model was made for, `biased` the projections that carry a bias, `vision` the
    parameters of a vision tower. With `latent`, head_dim is the size of a query.
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
    full_layers: int = 0
    post_norms: bool = False
    fused: bool = False
    experts: Experts | None = None
    latent: Latent | None = None
    vision: int = 0

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
        if self.experts is not None and self.experts.per_token > self.experts.count:
            raise UsageError(
                f"{self.name}: {self.experts.per_token} experts run for a token, and there are only "
                f"{self.experts.count}; one of the two numbers is wrong"
            )

    def tensors(self) -> tuple[TensorSpec, ...]:
        """Every tensor of the checkpoint, in order; a tied output head is not stored twice."""
        from quantlab.plan.blocks import tensors_of

        return tensors_of(self)

    @cached_property
    def _counts(self) -> dict[str, int]:
        from quantlab.plan.blocks import counts_of

        return counts_of(self)

    @property
    def parameters(self) -> int:
        """All weights, tied ones counted once: the number that a model card gives."""
        return sum(self._counts.values())

    @property
    def linear_parameters(self) -> int:
        """The weights of the projections inside the blocks: what a quantizer touches by default."""
        return sum(self._counts.get(kind, 0) for kind in LINEAR)

    @property
    def active_parameters(self) -> int:
        """The weights that one token is multiplied with, the embedding among them: fewer in a mixture of experts."""
        if self.experts is None:
            return self.parameters - self.vision
        idle = self._counts["experts"] * (self.experts.count - self.experts.per_token) // self.experts.count
        return self.parameters - self.vision - idle

    @property
    def kv_group(self) -> int:
        """How many query heads share one key and value head (1: multi-head attention)."""
        return self.heads // self.kv_heads

    @property
    def kv_numbers(self) -> int:
        """Numbers that one token leaves in the KV cache of one layer: a key and a value for each KV head.

        >>> from quantlab.plan.models import shape_of
        >>> [shape_of(name).kv_numbers for name in ("llama-3.1-8b", "deepseek-v3")]
        [2048, 576]
        """
        if self.latent is not None:
            return self.latent.kv_rank + self.latent.rope
        return 2 * self.kv_heads * self.head_dim

    @property
    def windowed_layers(self) -> int:
        """Layers that keep at most `window` tokens of a text."""
        return 0 if self.window is None else self.layers - self.full_layers
