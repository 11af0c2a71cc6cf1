"""A recipe for each GPU: which model its labs take, which formats run there and how, what fits, and what it will cost.

    recipe("l4").model                    the largest of LAB_MODELS whose *original* fits with `CONTEXT` tokens of text
    recipe("l4").largest                  the largest ungated model of which that holds: for those who want more
    recipe("l4").stretch                  the largest that fits in some format that vLLM runs there
    print(recipe("l4").commands())        plan, download, check, quantize, verify, serve

*Fits* means: with the planner's own error added, so that no recipe hangs on the last megabytes.

A lab needs more than a GPU: it quantizes and judges in the machine's own memory, where a weight takes six bytes. So no
lab takes a model of more than 8 billion weights, however large the card; what the card alone would hold is said beside.

What can be derived is derived by the planner, and PREDICTED: nothing here was measured. Data are the GPUs and the
models' sources only (quantlab.plan.lab_sources). Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from quantlab.errors import UsageError
from quantlab.plan.gpus import Gpu
from quantlab.plan.gpus import gpu as gpu_named
from quantlab.plan.inverse import FP8_KV, Setup, fits, max_concurrency, max_context, need, refusal
from quantlab.plan.lab_sources import OPTIONAL, SOURCES, Source
from quantlab.plan.memory import weights_bytes
from quantlab.plan.models import shape_of
from quantlab.plan.roofline import decode
from quantlab.plan.spellings import KV_BITS
from quantlab.plan.support import Capability, How, Support, family, how_on, support

CARDS = ("t4", "a10", "a10g", "l4", "rtx-3090", "rtx-4090", "rtx-5090", "a100-40", "a100-80", "l40s", "h100", "h200",
         "b200")  # fmt: skip
LAB_MODELS = ("smollm2-135m", "qwen3-4b", "qwen3-8b")  # what a lab may take, smallest first
CONTEXT = 4096  # tokens that must fit beside the weights; the labs' texts are shorter
FORMATS = ("bf16", "awq_int4_g128", "gptq_int4_g128", "int8", "fp8_e4m3_channel", "nvfp4", "mxfp4", "nf4")
LINE_MBIT_PER_S = 200.0  # ASSUMPTION: a line, for the minutes of a download
DISK_GB_PER_S = 0.5  # ASSUMPTION: a rented machine's disk, for the seconds of reading weights
MARGIN = 0.11  # of what vLLM takes beside weights and cache: how far the plan was off its logs (plan.engines)
BF16 = (8, 0)  # compute capability from which a card computes in bf16; below it vLLM takes fp16
HOST_BYTES_PER_WEIGHT, HOST_BYTES = 6, 2**29  # `quantlab quantize` asks for these in the machine's own memory
# what quantlab writes -> its method and format, as `quantlab quantize` takes them
METHODS = {"awq_int4_g128": ("awq", "awq"), "gptq_int4_g128": ("gptq", "gptq"), "fp8_e4m3_channel": ("rtn", "fp8")}


@dataclass(frozen=True)
class Choice:
    """One format on one card.

    why: which cards run it and how, or why this one does not. context: of one text, at most. at_once: texts of
    CONTEXT tokens. tokens_per_s: one text, at best (roofline). utilization: the engine's share of the card.
    """

    fmt: str
    how: How
    why: str
    engine: str
    utilization: float
    weights_bytes: int
    kv: str
    context: int
    at_once: int
    tokens_per_s: float
    as_fp16: bool = False

    @property
    def runs(self) -> bool:
        """Whether the card runs the format and a text of CONTEXT tokens fits."""
        return self.how is not How.NO and self.context >= CONTEXT

    @property
    def words(self) -> str:
        """How it runs, in two or three words."""
        return f"{self.how.value}, as fp16" if self.as_fp16 else self.how.value


@dataclass(frozen=True)
class Recipe:
    """What the labs do on one card.

    Minutes and memory are the least: a download at the line's speed, files read at the disk's.
    """

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
    def largest(self) -> str:
        """The largest ungated model whose original fits, by the card alone."""
        return next(model for model in reversed(SOURCES) if fits_well(setup(self.card, model, "bf16")))

    @cached_property
    def stretch(self) -> tuple[str, Choice]:
        """The largest ungated model that fits in some format of vLLM's, and that format with the most bits."""
        return _stretch(self.card, SOURCES) or (self.model, self.best)

    @cached_property
    def gated(self) -> tuple[str, Choice] | None:
        """The same of the gated models; None where none fits."""
        return _stretch(self.card, OPTIONAL)

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
    def load_minutes(self) -> float:
        """Reading the original from the disk, at DISK_GB_PER_S; what a server does then is not in it."""
        return self.download_gb / DISK_GB_PER_S / 60

    @property
    def host_gb(self) -> float:
        """The machine's own memory that `quantlab quantize` asks for."""
        return (HOST_BYTES_PER_WEIGHT * shape_of(self.model).parameters + HOST_BYTES) / 1e9

    @property
    def disk_gb(self) -> float:
        """The original, and as much again, which `quantlab quantize` asks for before it begins."""
        return 2 * self.download_gb

    def commands(self) -> str:
        """What to type, one line a step; `hf` comes with huggingface_hub.

        >>> recipe("l4").commands().splitlines()[0]
        'quantlab plan qwen3-8b --gpu l4 --format awq_int4_g128 --context 4096 --kv-dtype fp8'
        """
        folder, out = f"models/{self.model}", f"models/{self.model}-{self.best.fmt.replace('_', '-')}"
        method, fmt = METHODS[self.best.fmt]
        lines = (
            f"quantlab plan {self.model} --gpu {self.card.name} --format {self.best.fmt} --context {CONTEXT} "
            f"--kv-dtype {self.best.kv}",
            f"hf download {self.source.repository} --revision {self.source.revision} --local-dir {folder}",
            f"quantlab recipe {self.card.name} --check {folder}",
            f"quantlab quantize {folder} --method {method} --format {fmt} --out {out}",
            f"quantlab verify {out}",
            f"quantlab serve {out} --engine vllm --context {CONTEXT}",
            f"# vLLM alone (its key from VLLM_API_KEY): {self.vllm(out)}",
        )
        return "\n".join(lines)

    def vllm(self, path: str) -> str:
        """vLLM's own command for the quantized model: with the FP8 cache, which `quantlab serve` does not ask for."""
        dtype = "" if self.card.compute_capability >= BF16 else " --dtype half"
        kv = " --kv-cache-dtype fp8" if self.best.kv == "fp8" else ""
        share = f"--gpu-memory-utilization {self.best.utilization:g}"
        return f"vllm serve {path} --host 127.0.0.1 --max-model-len {CONTEXT} {share}{dtype}{kv}"


def _stretch(card: Gpu, sources: dict[str, Source]) -> tuple[str, Choice] | None:
    for model in reversed(sources):
        asked = [setup(card, model, fmt) for fmt in FORMATS]
        able = [one for one in asked if one.engine.name == "vLLM" and fits_well(one)]
        if able:
            return model, choice(card, model, max(able, key=lambda one: one.weights_bytes).fmt)
    return None


def setup(card: Gpu, model: str, fmt: str) -> Setup:
    """One text of CONTEXT tokens; the cache in FP8 where card and engine have it and the format is no original."""
    asked = Setup(shape_of(model), fmt, CONTEXT, card=card)
    fp8 = fmt != "bf16" and asked.engine.name == "vLLM" and card.compute_capability >= FP8_KV
    return Setup(shape_of(model), fmt, CONTEXT, kv="fp8", card=card) if fp8 else asked


def fits_well(asked: Setup) -> bool:
    """Whether it fits even if its engine takes more beside weights and cache, by the planner's error."""
    more = math.ceil(MARGIN * need(asked).overhead)
    return fits(asked) and need(asked).total + more <= (asked.room or 0)


def choice(card: Gpu, model: str, fmt: str) -> Choice:
    """How a card runs a format of a model, and what fits beside it."""
    asked = setup(card, model, fmt)
    engine, name = asked.engine.name, family(fmt)
    row = support(engine, name) if name else None
    how = How.NATIVE if name is None else how_on(engine, name, card)
    as_fp16 = fmt == "bf16" and card.compute_capability < BF16
    why = rule(row) if row else "what every card multiplies" + (", without bf16 in fp16" if as_fp16 else "")
    context = max_context(asked) if fits(asked) else 0
    if refused := refusal(asked):
        why = f"{refused} ({why})"
    elif not context:
        why = f"{(need(asked).total - (asked.room or 0)) / 2**30:.1f} GiB are missing"
    return Choice(
        fmt, how, why, engine, asked.share, asked.weights_bytes, asked.kv, context,
        max_concurrency(asked) if context else 0,
        decode(model, fmt, card, 1, CONTEXT, kv_bits=KV_BITS[asked.kv]).tokens_per_s, as_fp16,
    )  # fmt: skip


def rule(row: Support) -> str:
    """From which compute capability on an engine runs a format, and how.

    >>> rule(support("vLLM", "FP8"))
    'native from compute capability 8.9 on, weight only from 7.5 on'
    """

    def since(how: str, capability: Capability | None) -> list[str]:
        return [f"{how} from {capability[0]}.{capability[1]} on"] if capability else []

    parts = since("native", row.native) + since("weight only", row.weight_only) + since("not", row.before)
    parts[0] = parts[0].replace("from ", "from compute capability ")
    return ", ".join(parts) + (f"; {row.note}" if row.note else "")


def recipe(gpu: str | Gpu, line_mbit_per_s: float = LINE_MBIT_PER_S) -> Recipe:
    """The recipe of a card, by name. Raises UsageError for an unknown one, and for one that vLLM does not run on."""
    card = gpu_named(gpu) if isinstance(gpu, str) else gpu
    if card.maker != "NVIDIA" or card.compute_capability < (7, 5):
        raise UsageError(
            f"the labs serve with vLLM, whose wheel runs on NVIDIA cards from capability 7.5 on; {card.label} "
            "is none: run them in a rehearsal on this CPU, or take a T4 or a newer card"
        )
    for model in reversed(LAB_MODELS):
        if fits_well(setup(card, model, "bf16")):
            return Recipe(card, model, line_mbit_per_s)
    raise UsageError(
        f"{card.label} holds none of the labs' models; the smallest is {LAB_MODELS[0]}: take a T4 or a larger card, or "
        "run the labs in a rehearsal on this CPU"
    )
