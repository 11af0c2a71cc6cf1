"""Lesson 1's explorer: model, format, context and batch against the memory of GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from quantlab.lesson.message import number
from quantlab.plan.gpus import GPUS
from quantlab.plan.memory import GIB, MemoryPlan, memory
from quantlab.plan.models import MODELS
from quantlab.plots import Need, Picture, memory_bars
from quantlab.widgets.explorer import Control, Explorer

CARDS = ("t4", "rtx-4090", "l40s", "a100-80", "h200", "b200")
FORMATS = ("bf16", "int8", "awq_int4_g128", "nf4", "nvfp4", "q4_k_m", "q2_k")
CONTEXTS = tuple(2**power for power in range(9, 18))
BATCHES = tuple(2**power for power in range(9))


@dataclass(frozen=True)
class MemoryResult:
    """What one setting needs, and which cards hold it."""

    plan: MemoryPlan

    @property
    def need(self) -> Need:
        """The bar of the picture."""
        plan = self.plan
        label = f"{plan.model}\n{plan.fmt}\n{self._texts} of {plan.context:,}"
        parts = {"weights": plan.weights_bytes, "KV cache": plan.kv_bytes, "overhead": plan.overhead_bytes}
        return Need(label, {part: nbytes / GIB for part, nbytes in parts.items()})

    def words(self) -> str:
        """What is needed, where it fits, and what to watch."""
        fitting = [GPUS[name].label for name in CARDS if GPUS[name].memory_bytes >= self.plan.total_bytes]
        where = f"Fits {', '.join(fitting)}." if fitting else "Fits none of these GPUs."
        parts = ", ".join(f"{part} {number(round(gib, 2))}" for part, gib in self.need.parts.items())
        return f"{self.setting}: {self.total} ({parts}). {where}{self._caution()}"

    @property
    def setting(self) -> str:
        """The values of the controls, as one reads them out."""
        return f"{self.plan.model} in {self.plan.fmt}, {self._texts} of {self.plan.context:,} tokens"

    @property
    def total(self) -> str:
        """All that is needed."""
        return number(round(self.plan.total_bytes / GIB, 2), "GiB")

    @property
    def _texts(self) -> str:
        return f"{self.plan.batch} text{'s' * (self.plan.batch > 1)}"

    def _caution(self) -> str:
        shape = self.plan.shape
        if self.plan.context > shape.context:
            return f" {shape.name} was made for at most {shape.context:,} tokens."
        if shape.window is not None and self.plan.context > shape.window:
            return f" {shape.name} keeps only the last {shape.window:,} tokens of each text."
        return ""

    def formula(self) -> str:
        """Weights, KV cache and overhead, each with its numbers."""
        plan, shape = self.plan, self.plan.shape
        tokens = min(plan.context, shape.window or plan.context)
        return "\n".join(
            (
                f"weights  = {shape.parameters:,} parameters x {plan.bits_per_weight:.2f} bits / 8"
                f" = {plan.weights_bytes / GIB:,.2f} GiB",
                f"KV cache = 2 (key, value) x {shape.layers} layers x {shape.kv_heads} KV heads x {shape.head_dim}"
                f" x {plan.kv_bits / 8:g} bytes\n           x {tokens:,} tokens x batch of {plan.batch:,}"
                f" = {plan.kv_bytes / GIB:,.2f} GiB",
                f"overhead = {plan.overhead_bytes / GIB:,.2f} GiB (assumed: CUDA context, activations)",
                f"together = {plan.total_bytes / GIB:,.2f} GiB",
            )
        )


def memory_result(model: str, fmt: str, context: int, batch: int) -> MemoryResult:
    """The pure function behind the explorer."""
    return MemoryResult(memory(model, fmt, context, batch))


def draw(result: MemoryResult, ghost: MemoryResult | None) -> Picture:
    """The bar of this setting, the outline of the one before, and the cards."""
    cards = {GPUS[name].label: GPUS[name].memory_gib for name in CARDS}
    picture = memory_bars([result.need], cards, ghost.need if ghost else None)
    before = f" Before: {ghost.setting}: {ghost.total}." if ghost else ""
    picture.words = f"{result.words()}{before}"
    return picture


def memory_explorer(
    model: str = "llama-3-70b", fmt: str = "bf16", context: int = 8192, batch: int = 1
) -> Explorer[MemoryResult]:
    """The explorer, starting from this setting."""
    plain = [shape for shape in MODELS.values() if shape.latent is None and not shape.full_layers]  # see formula()
    models = tuple(shape.name for shape in sorted(plain, key=lambda shape: shape.parameters))
    controls = (
        Control("model", "Model", models, model),
        Control("fmt", "Format", FORMATS, fmt),
        Control("context", "Context", CONTEXTS, context, lambda tokens: f"{tokens:,} tokens", slider=True),
        Control("batch", "Batch", BATCHES, batch, lambda texts: f"{texts} text{'s' * (texts > 1)}", slider=True),
    )
    return Explorer(controls, memory_result, draw)
