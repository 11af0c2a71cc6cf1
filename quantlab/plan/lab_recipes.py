"""A recipe for each GPU: which model its labs take, which formats run there and how, what fits, and what it will cost.

    recipe("l4").model                    the largest ungated model whose *original* fits with `CONTEXT` tokens to spare
    recipe("l4").stretch                  the largest that fits in some format that the card runs
    print(recipe("l4").commands())        plan, download, check, quantize, verify, serve

What can be derived is derived by the planner, and PREDICTED: nothing here was measured. Data are the GPUs and the
models' sources only (quantlab.plan.lab_sources). Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from quantlab.errors import QuantlabError, UsageError
from quantlab.plan.gpus import Gpu
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.inverse import FP8_KV, Setup, fits, max_context, need
from quantlab.plan.lab_sources import SOURCES, Source
from quantlab.plan.memory import weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.roofline import decode
from quantlab.plan.spellings import KV_BITS
from quantlab.plan.support import How, family, how_on, why_not

CARDS = ("t4", "a10", "a10g", "l4", "rtx-3090", "rtx-4090", "rtx-5090", "a100-40", "a100-80", "l40s", "h100", "h200",
         "b200")  # fmt: skip
CONTEXT = 4096  # tokens that must fit beside the weights; the labs' texts are shorter
FORMATS = ("bf16", "awq_int4_g128", "gptq_int4_g128", "int8", "fp8_e4m3_channel", "nvfp4", "mxfp4", "nf4")
LINE_MBIT_PER_S = 200.0  # a line, for the minutes of a download: an assumption
BF16 = (8, 0)  # compute capability from which a card computes in bf16; below it vLLM takes fp16
# what quantlab writes -> its method and format, as `quantlab quantize` takes them
METHODS = {"awq_int4_g128": ("awq", "awq"), "gptq_int4_g128": ("gptq", "gptq"), "fp8_e4m3_channel": ("rtn", "fp8")}


@dataclass(frozen=True)
class Choice:
    """One format on one card. why: the reason where it does not run; tokens_per_s: one text, at best (roofline)."""

    fmt: str
    how: How
    why: str
    weights_bytes: int
    kv: str
    context: int
    tokens_per_s: float

    @property
    def runs(self) -> bool:
        """Whether the card runs the format and a text of CONTEXT tokens fits."""
        return self.how is not How.NO and self.context >= CONTEXT


@dataclass(frozen=True)
class Recipe:
    """What the labs do on one card."""

    card: Gpu
    model: str
    line_mbit_per_s: float = LINE_MBIT_PER_S

    @property
    def source(self) -> Source:
        """Repository, revision, licence, hashes."""
        return SOURCES[self.model]

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """Every format of FORMATS, those that do not run with the reason."""
        return tuple(choice(self.card, self.model, fmt) for fmt in FORMATS)

    @cached_property
    def best(self) -> Choice:
        """What the labs quantize to: of the formats that quantlab writes and that run, the smallest."""
        able = [one for one in self.choices if one.runs and one.fmt in METHODS]
        return min(able, key=lambda one: one.weights_bytes)

    @cached_property
    def stretch(self) -> tuple[str, Choice]:
        """The largest model of SOURCES that fits in some format, and that format with the most bits."""
        for model in reversed(SOURCES):
            able = [one for fmt in FORMATS if (one := choice(self.card, model, fmt)).runs]
            if able:
                return model, max(able, key=lambda one: one.weights_bytes)
        raise QuantlabError(f"no model of the labs fits {self.card.label}")

    @property
    def setup(self) -> Setup:
        """The original, served: what must fit."""
        return setup(self.card, self.model, "bf16")

    @property
    def download_gb(self) -> float:
        """The model's files, in 10^9 bytes."""
        return weights_bytes(self.model, "bf16") / 1e9

    @property
    def download_minutes(self) -> float:
        """At the line's speed, an assumption."""
        return 8e3 * self.download_gb / self.line_mbit_per_s / 60

    @property
    def disk_gb(self) -> float:
        """The original and the quantized checkpoint."""
        return self.download_gb + self.best.weights_bytes / 1e9

    def commands(self) -> str:
        """What to type, one line a step; `hf` comes with huggingface_hub.

        >>> recipe("l4").commands().splitlines()[0]
        'quantlab plan qwen3-8b --gpu l4 --format awq_int4_g128 --context 4096'
        """
        folder, out = f"models/{self.model}", f"models/{self.model}-{self.best.fmt.replace('_', '-')}"
        dtype = "" if self.card.compute_capability >= BF16 else " --dtype half"
        kv = " --kv-cache-dtype fp8" if self.best.kv == "fp8" else ""
        method, fmt = METHODS[self.best.fmt]
        return "\n".join(
            (
                f"quantlab plan {self.model} --gpu {self.card.name} --format {self.best.fmt} --context {CONTEXT}",
                f"hf download {self.source.repository} --revision {self.source.revision} --local-dir {folder}",
                f"quantlab recipe {self.card.name} --check {folder}",
                f"quantlab quantize {folder} --method {method} --format {fmt} --out {out}",
                f"quantlab verify {out}",
                f"quantlab serve {out} --engine vllm --context {CONTEXT}",
                f"# the same without quantlab: vllm serve {out} --host 127.0.0.1 --max-model-len {CONTEXT}{dtype}{kv}",
            )
        )


def setup(card: Gpu, model: str, fmt: str) -> Setup:
    """One text of CONTEXT tokens; the cache in FP8 where the card and vLLM have it and the format is no original."""
    fp8 = fmt != "bf16" and card.compute_capability >= FP8_KV
    return Setup(shape_of(model), fmt, CONTEXT, kv="fp8" if fp8 else "bf16", card=card)


def choice(card: Gpu, model: str, fmt: str) -> Choice:
    """How a card runs a format of a model, and what fits beside it."""
    asked = setup(card, model, fmt)
    name = family(fmt)
    how = How.NATIVE if name is None else how_on("vLLM", name, card)
    context = max_context(asked) if how is not How.NO and fits(asked) else 0
    why = why_not(fmt, card)
    if not why and not context:
        short = need(asked).total - (asked.room or 0)
        why = f"{short / 2**30:.1f} GiB are missing"
    speed = decode(model, fmt, card, 1, CONTEXT, kv_bits=KV_BITS[asked.kv]).tokens_per_s
    return Choice(fmt, how, why, weights_bytes(model, fmt), asked.kv, context, speed)


def recipe(gpu: str | Gpu, line_mbit_per_s: float = LINE_MBIT_PER_S) -> Recipe:
    """The recipe of a card, by name. Raises UsageError for an unknown one, and for one that vLLM does not run on."""
    card = gpu_named(gpu) if isinstance(gpu, str) else gpu
    if card.maker != "NVIDIA" or card.compute_capability < (7, 5):
        raise UsageError(
            f"the labs serve with vLLM, whose wheel runs on NVIDIA cards from capability 7.5 on; {card.label} "
            "is none: run them in a rehearsal on this CPU, or take a T4 or a newer card"
        )
    for model in reversed(SOURCES):
        if fits(setup(card, model, "bf16")):
            return Recipe(card, model, line_mbit_per_s)
    raise UsageError(f"{card.label} holds none of the labs' models; the smallest is {next(iter(SOURCES))}")
