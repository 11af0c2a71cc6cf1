"""How an engine forms its batches, as data.

    static        a batch is filled once and runs until its longest answer ends; who is done early keeps its slot
                  (transformers' `generate`)
    continuous    whoever waits joins as soon as a slot is free; its whole prompt is computed in a step of its own,
                  while the others wait (Yu et al. 2022, "Orca", OSDI; vLLM before version 1)
    chunked       every step computes at most `step_tokens` tokens: one for each text that decodes, and as much of the
                  waiting prompts as is left (Agrawal et al. 2024, "Sarathi-Serve", arXiv 2403.02310; vLLM 1)

`slots` is vLLM's max_num_seqs, `step_tokens` its max_num_batched_tokens, `kv_tokens` the "KV cache size" in its log.
When the cache is full, the request that came last loses its own and begins anew (vLLM's preemption by recomputation).
"""

from __future__ import annotations

from dataclasses import dataclass

from quantlab.errors import UsageError, unknown

KINDS = ("static", "continuous", "chunked")


@dataclass(frozen=True)
class Policy:
    """One engine's rules; kv_tokens None: a cache without an end. prefix_cache: shared beginnings are computed once."""

    kind: str = "chunked"
    slots: int = 256
    step_tokens: int = 2048
    kv_tokens: int | None = None
    prefix_cache: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("policy", self.kind, KINDS)
        for name in ("slots", "step_tokens", "kv_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if self.kind == "chunked" and self.step_tokens < self.slots:
            raise UsageError(
                f"step_tokens must be at least slots, or texts that decode would wait for each other; "
                f"got {self.step_tokens} and {self.slots}"
            )
        if self.kind == "static" and self.prefix_cache:
            raise UsageError("a static batch has no prefix cache: nothing is left of a batch when it ends")
