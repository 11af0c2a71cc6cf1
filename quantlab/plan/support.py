"""Who runs what: engines, formats and GPUs as a table of facts, each row with the page or file it was read from.

A format can be run in two ways, and a card may know one of them, both, or none:

    native        the card multiplies numbers of this type itself: less memory *and* faster arithmetic
    weight only   the weights are turned back into 16 bits on their way to the multiplication: less memory, and faster
                  where reading the weights is what takes the time (few texts at once)

Which of the two depends on a card's compute capability, the number that NVIDIA gives its generations (7.5 Turing, 8.9
Ada); other hardware is listed by name. 4-bit integers are weight-only on every card: none multiplies them by 16-bit
inputs. A newer card is not always a better one: vLLM's INT8 ends before Blackwell. Engines change with every release,
so each row says where it was read.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from quantlab.errors import UsageError, unknown
from quantlab.plan.gpus import Gpu

Capability = tuple[int, int]

GENERATIONS: dict[str, Capability] = {  # the lowest compute capability of each
    "Volta": (7, 0),
    "Turing": (7, 5),
    "Ampere": (8, 0),
    "Ada": (8, 9),
    "Hopper": (9, 0),
    "Blackwell": (10, 0),
}


class How(Enum):
    """In which way a card runs a format."""

    NATIVE = "native"
    WEIGHT_ONLY = "weight only"
    NO = "no"


@dataclass(frozen=True)
class Support:
    """What an engine does with a format: from which compute capability natively, from which weight-only, where else.

    `before` is the compute capability from which on it does not run at all; `plugin` names the package without which
    the engine does not know the format.
    """

    engine: str
    fmt: str
    source: str
    native: Capability | None = None
    weight_only: Capability | None = None
    elsewhere: tuple[str, ...] = ()
    note: str = ""
    plugin: str = ""
    before: Capability | None = None

    def on(self, capability: Capability) -> How:
        """How a card of this compute capability runs it.

        >>> support("vLLM", "FP8").on((8, 6)).value  # an A10
        'weight only'
        """
        if self.before is not None and capability >= self.before:
            return How.NO
        if self.native is not None and capability >= self.native:
            return How.NATIVE
        if self.weight_only is not None and capability >= self.weight_only:
            return How.WEIGHT_ONLY
        return How.NO

    def on_gpu(self, card: Gpu) -> How:
        """How this card, or a processor or a Mac of the table, runs it.

        >>> from quantlab.plan.gpus import gpu
        >>> support("llama.cpp", "GGUF").on_gpu(gpu("m2-max")).value, support("vLLM", "AWQ").on_gpu(gpu("mi300x")).value
        ('weight only', 'no')
        """
        if card.maker == "NVIDIA":
            return self.on(card.compute_capability)
        if not any(place in self.elsewhere for place in _PLACES.get(card.maker, ())):
            return How.NO
        return How.WEIGHT_ONLY if self.native is None else How.NATIVE


_PLACES = {"AMD": ("AMD GPU",), "Apple": ("Apple GPU",), "CPU": ("x86 CPU", "Arm CPU")}

_VLLM = "docs.vllm.ai, quantization, Supported Hardware"  # it ticks GPTQ on Volta, for which no wheel is built
_VLLM_INT8 = "docs.vllm.ai, llm_compressor/int8_w8a8: not supported on compute capability 10.0 and newer"
_VLLM_FP8 = "docs.vllm.ai v0.32.0, llm_compressor/fp8"
_SOURCE = "vLLM 0.33, vllm/model_executor/layers/quantization"
_SGLANG = "docs.sglang.io, advanced_features/quantization"
_SGLANG_SOURCE = "SGLang, sglang/srt/layers/quantization (modelopt_quant.py, marlin_utils_fp8.py)"
_TRT = "nvidia.github.io/Model-Optimizer, guides/0_support_matrix"
_LLAMA = "github.com/ggml-org/llama.cpp, README, Supported backends"
_OLLAMA = "github.com/ollama/ollama, docs: imports GGUF files, runs them on llama.cpp's library"
_GPTQMODEL = "GPTQModel 1.4.2 and 1.7.0, release notes (macOS, MPS, MLX); 7.7.0, README"

_HERE = ("x86 CPU", "Arm CPU", "Apple GPU", "AMD GPU", "Intel GPU")
_ALL = (
    Support("vLLM", "AWQ", _VLLM, weight_only=(7, 5), elsewhere=("x86 CPU", "Intel GPU"), note="Marlin kernels"),
    Support("vLLM", "GPTQ", _VLLM, weight_only=(7, 5), elsewhere=("x86 CPU", "Intel GPU"), note="Marlin kernels"),
    Support("vLLM", "INT8", _VLLM_INT8, native=(7, 5), before=(10, 0), elsewhere=("x86 CPU", "Arm CPU"),
            note="8-bit inputs as well; use FP8 on Blackwell"),
    Support("vLLM", "FP8", _VLLM_FP8, native=(8, 9), weight_only=(7, 5), elsewhere=("AMD GPU",)),
    Support("vLLM", "NVFP4", _SOURCE, native=(10, 0), weight_only=(7, 5)),
    Support("vLLM", "MXFP4", _VLLM, native=(10, 0), weight_only=(8, 0), note="Turing's Marlin has no MXFP4"),
    Support("vLLM", "NF4", _SOURCE, weight_only=(7, 5), plugin="vllm-bnb-plugin"),
    Support("vLLM", "GGUF", _SOURCE, weight_only=(7, 5), plugin="vllm-gguf-plugin", note="experimental"),
    Support("SGLang", "AWQ", _SGLANG, weight_only=(7, 5)),
    Support("SGLang", "GPTQ", _SGLANG, weight_only=(7, 5)),
    Support("SGLang", "FP8", _SGLANG_SOURCE, native=(8, 9), weight_only=(8, 0), elsewhere=("AMD GPU",)),
    Support("SGLang", "NVFP4", _SGLANG_SOURCE, native=(10, 0)),
    Support("TensorRT-LLM", "AWQ", _TRT, weight_only=(8, 0), note="made by ModelOpt"),
    Support("TensorRT-LLM", "GPTQ", _TRT, weight_only=(8, 0), note="converted, Llama family"),
    Support("TensorRT-LLM", "FP8", _TRT, native=(8, 9)),
    Support("TensorRT-LLM", "NVFP4", _TRT, native=(10, 0)),
    Support("llama.cpp", "GGUF", _LLAMA, weight_only=(5, 0), elsewhere=_HERE, note="inputs are rounded to 8 bits"),
    Support("Ollama", "GGUF", _OLLAMA, weight_only=(5, 0), elsewhere=("x86 CPU", "Arm CPU", "Apple GPU", "AMD GPU")),
    Support("transformers", "NF4", "bitsandbytes 0.50, README", weight_only=(6, 0),
            elsewhere=("x86 CPU", "Arm CPU", "AMD GPU", "Intel GPU")),
    Support("GPTQModel", "GPTQ", _GPTQMODEL, weight_only=(7, 5), elsewhere=_HERE),
    Support("GPTQModel", "AWQ", _GPTQMODEL, weight_only=(7, 5), elsewhere=_HERE),
)  # fmt: skip
SUPPORT = {(row.engine, row.fmt): row for row in _ALL}
ENGINES = tuple(dict.fromkeys(row.engine for row in _ALL))


def support(engine: str, fmt: str) -> Support | None:
    """What this engine does with this format; None where it does not know it. An unknown engine raises."""
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    return SUPPORT.get((engine, fmt))


def how(engine: str, fmt: str, capability: Capability) -> How:
    """How an engine runs a format on a card of this compute capability.

    >>> how("vLLM", "NVFP4", (9, 0)), how("TensorRT-LLM", "NVFP4", (9, 0))
    (<How.WEIGHT_ONLY: 'weight only'>, <How.NO: 'no'>)
    """
    row = support(engine, fmt)
    return How.NO if row is None else row.on(capability)


def how_on(engine: str, fmt: str, card: Gpu) -> How:
    """How an engine runs a format on this card, processor or Mac.

    >>> from quantlab.plan.gpus import gpu
    >>> how_on("vLLM", "INT8", gpu("b200")), how_on("vLLM", "INT8", gpu("h100"))
    (<How.NO: 'no'>, <How.NATIVE: 'native'>)
    """
    row = support(engine, fmt)
    return How.NO if row is None else row.on_gpu(card)


def formats_on(card: Gpu, engine: str = "vLLM") -> dict[str, How]:
    """Every format that this engine knows, and how this card runs it.

    >>> from quantlab.plan.gpus import gpu
    >>> {fmt: how.value for fmt, how in formats_on(gpu("t4")).items() if how is not How.WEIGHT_ONLY}
    {'INT8': 'native', 'MXFP4': 'no'}
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    return {row.fmt: row.on_gpu(card) for row in _ALL if row.engine == engine}


# How a plan's format begins -> what engines call it, tried in this order. bitsandbytes' formats stand and fall with
# NF4; 16 and 32 bits run wherever anything does.
_FAMILIES = {
    "awq_": "AWQ", "gptq_": "GPTQ", "fp8_": "FP8", "nvfp4": "NVFP4", "mxfp4": "MXFP4", "nf4": "NF4", "fp4": "NF4",
    "int8": "INT8", "llm_int8": "NF4", "int": "GPTQ", "q": "GGUF", "iq": "GGUF",
}  # fmt: skip


def family(fmt: str) -> str | None:
    """What engines call a format of the planner: compressed-tensors' integers run on the kernels of GPTQ.

    >>> family("awq_int4_g128"), family("int4_g128"), family("q4_k_m"), family("bf16")
    ('AWQ', 'GPTQ', 'GGUF', None)
    """
    return next((name for start, name in _FAMILIES.items() if fmt.startswith(start)), None)


def why_not(fmt: str, card: Gpu, engine: str = "vLLM") -> str:
    """Why this card does not run a format of the planner in this engine, and what does; '' where it runs.

    >>> from quantlab.plan.gpus import gpu
    >>> why_not("int8", gpu("b200"))
    'vLLM does not run INT8 on B200 SXM: take AWQ, GPTQ, FP8, NVFP4, MXFP4, NF4 or GGUF'
    """
    name = family(fmt)
    if name is None or how_on(engine, name, card) is not How.NO:
        return ""
    here = [other for other, how in formats_on(card, engine).items() if how is not How.NO]
    engines = [other for other in ENGINES if how_on(other, name, card) is not How.NO]
    ways = [f"take {_listed(here)}"] if here else []
    ways += [f"run it with {_listed(engines)}"] if engines else []
    if not ways and how_on("llama.cpp", "GGUF", card) is not How.NO:
        ways = ["take a GGUF file and llama.cpp"]
    return f"{engine} does not run {name} on {card.label}: {', or '.join(ways) or 'take another card'}"


def _listed(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def generation(capability: Capability) -> str:
    """The name of the newest generation that a compute capability reaches.

    >>> generation((8, 6)), generation((12, 0))
    ('Ampere', 'Blackwell')
    """
    reached = [name for name, lowest in GENERATIONS.items() if capability >= lowest]
    if not reached:
        raise UsageError(f"compute capability {capability[0]}.{capability[1]} is older than Volta (7.0)")
    return reached[-1]


def runs_on(engine: str, generations: Iterable[str] = GENERATIONS) -> dict[str, dict[str, How]]:
    """A row for each format that this engine knows: generation -> how.

    >>> [how.value for how in runs_on("vLLM")["FP8"].values()]
    ['no', 'weight only', 'weight only', 'native', 'native', 'native']
    """
    names = list(generations)
    for name in names:
        if name not in GENERATIONS:
            raise unknown("generation", name, GENERATIONS)
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    rows = [row for row in _ALL if row.engine == engine]
    return {row.fmt: {name: row.on(GENERATIONS[name]) for name in names} for row in rows}
