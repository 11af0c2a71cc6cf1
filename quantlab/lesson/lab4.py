"""What lab 4 needs beside the library: checkpoints in several formats, judged, and their speed at several batch sizes.

On a GPU vLLM serves each checkpoint and gets as many requests at once as the batch is large. In a rehearsal llama.cpp
runs GGUF files of the bundled model on this CPU, as many texts in each step. Either way all tokens of all texts are
counted, and the prompts are short, so that it is decoding that is timed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from quantlab.backends.quantizers.making import Text
from quantlab.backends.quantizers.offers import Wish
from quantlab.lesson import lab, lab3
from quantlab.plan.detect import cores, measured_cpu, this_machine
from quantlab.plan.gpus import Gpu
from quantlab.plan.roofline import decode
from quantlab.plan.speed import crossover

if TYPE_CHECKING:
    from quantlab.evaluate.rounded import Judge
    from quantlab.models.load import LoadedModel

BATCHES = (1, 8, 32, 128)
TOKENS = 64  # that each text grows by, on a GPU
PROMPT = "Tell me a story about a boat and a cat."
ORIGINAL = "16 bits"


@dataclass(frozen=True)
class Candidate:
    """A file to be judged and timed: its format by the planner's name, where it is, its bytes."""

    name: str
    fmt: str
    path: Path
    nbytes: int


def candidates(here: lab.Setting, loaded: LoadedModel, workshop: Path, calibration: Text) -> list[Candidate]:
    """The original first, then the formats that this place runs; made once, found again by the next run."""
    if here.mode is not lab.Mode.LIVE:
        return [_sixteen(workshop), *(_made(here, Wish("llama.cpp", "rtn", fmt), workshop) for fmt in _CPU_FORMATS)]
    folder = loaded.source.folder
    original = Candidate(ORIGINAL, "bf16", folder, sum(f.stat().st_size for f in folder.glob("*.safetensors")))
    wishes = [Wish("quantlab", "awq_gptq", bits=4)]
    if this_machine().rate("fp8") is not None:  # elsewhere FP8 saves bytes only
        wishes.append(Wish("quantlab", "rtn", "fp8_e4m3_channel"))
    return [original, *(_made(here, wish, workshop, calibration) for wish in wishes)]


_CPU_FORMATS = ("q8_0", "q4_0", "q2_k")


def _sixteen(workshop: Path) -> Candidate:
    """The bundled model in float16, as a GGUF file."""
    from quantlab.checkpoints.gguf import write_gguf
    from quantlab.models.bundled import tiny_folder

    path = workshop / "original-f16.gguf"
    if not path.exists():
        write_gguf(tiny_folder(), path, "f16")
    return Candidate(ORIGINAL, "fp16", path, path.stat().st_size)


def _made(here: lab.Setting, wish: Wish, workshop: Path, calibration: Text | None = None) -> Candidate:
    made = lab3.make(here.model, wish, workshop, calibration or Text())
    return Candidate(made.format, made.format, made.path, made.nbytes)


@dataclass(frozen=True)
class Judged:
    """What a file lost: perplexity and KL divergence on the stories, right answers on the endings; and errors."""

    perplexity: float
    kl: float
    kl_stderr: float
    right: float
    right_stderr: float


def judge(one: Candidate, by: Judge, loaded: LoadedModel) -> Judged:
    """A GGUF file by llama.cpp itself, a folder by our readers."""
    from quantlab.backends.llama_cpp import Logits
    from quantlab.evaluate.logits import TorchLogits
    from quantlab.evaluate.quality import measure
    from quantlab.evaluate.statistics import share_stderr
    from quantlab.evaluate.task import read_choices, score_choices

    context = by.baseline.text.passport.context
    choices = read_choices(loaded.tokenizer, context)
    if one.path.is_file():
        with Logits(one.path, context) as source:
            quality, right = measure(source, by.baseline), score_choices(source, choices).acc_norm
    else:
        plain = TorchLogits(loaded.model) if one.fmt == "bf16" else lab3.stored_in(one.path, loaded)
        quality, right = measure(plain, by.baseline), score_choices(plain, choices).acc_norm
    share = float(right.double().mean())
    return Judged(quality.perplexity, quality.kl_mean, quality.kl_stderr, share, share_stderr(right))


Speeds = dict[int, tuple[float, float, float]]  # batch -> tokens a second: the slowest run, the median, the fastest


def speeds(here: lab.Setting, chosen: Sequence[Candidate], batches: Sequence[int] = BATCHES) -> dict[str, Speeds]:
    """Tokens a second of all texts together, of each file at each batch."""
    if here.mode is lab.Mode.LIVE:
        return {one.name: served(one.path, batches) for one in chosen}
    from quantlab.evaluate.speed import measure_batches

    found = measure_batches({one.name: one.path for one in chosen}, batches)
    return {
        name: {batch: (min(runs), median(runs), max(runs)) for batch, runs in by.items()} for name, by in found.items()
    }


def served(path: Path, batches: Sequence[int], repeats: int = 3, tokens: int = TOKENS) -> Speeds:
    """The same from vLLM: so many requests at once, each for so many tokens, and no end before them."""
    from quantlab import Server

    with Server(str(path), engine="vllm", context=512) as server:

        def burst(batch: int) -> float:
            def ask(_: int) -> str:
                options = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
                return str(server.client.complete(PROMPT, **options))

            with ThreadPoolExecutor(batch) as pool:
                began = time.perf_counter()
                list(pool.map(ask, range(batch)))
                return batch * tokens / (time.perf_counter() - began)

        found = {}
        for batch in batches:
            burst(batch)  # captures graphs and fills caches, not counted
            runs = [burst(batch) for _ in range(repeats)]
            found[batch] = (min(runs), median(runs), max(runs))
        return found


def card(here: lab.Setting) -> Gpu:
    """The GPU; without one this CPU, its bandwidth and its arithmetic in 32 bits measured now."""
    if here.mode is lab.Mode.LIVE:
        return this_machine()
    return replace(measured_cpu(), label=f"this CPU ({cores()} cores)", rates=(("fp16", _multiplied_per_s()),))


def _multiplied_per_s(size: int = 512, repeats: int = 5) -> float:
    """Operations a second of torch's matrix product, 2 n^3 in each, the best of a few."""
    import torch

    a, times = torch.ones(size, size), []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return float(2 * size**3 / min(times[1:]))


def predicted(here: lab.Setting, one: Candidate, on: Gpu, batches: Sequence[int] = BATCHES) -> dict[int, float]:
    """PREDICTED tokens a second at best, at each batch: the roofline."""
    return {batch: decode(here.planned, one.fmt, on, batch, TOKENS).tokens_per_s for batch in batches}


def predicted_crossover(here: lab.Setting, small: Candidate, large: Candidate, on: Gpu) -> float | None:
    """PREDICTED batch from which the small format's matrices gain nothing; None: it always gains."""
    return crossover(here.planned, small.fmt, large.fmt, on).none_from


def measured_crossover(small: Speeds, large: Speeds) -> int | None:
    """The first batch at which the small format is not faster beyond the spread of the runs; None: it always is."""
    return next((batch for batch in sorted(small) if small[batch][0] <= large[batch][2]), None)


def as_rows(
    chosen: Sequence[Candidate], found: Mapping[str, Judged], timed: Mapping[str, Speeds], batch: int
) -> list[tuple[str, int, float, float, tuple[float, float, float]]]:
    """(name, bytes, KL divergence, its error, speeds at a batch) of every candidate but the original."""
    return [
        (one.name, one.nbytes, found[one.name].kl, found[one.name].kl_stderr, timed[one.name][batch])
        for one in chosen
        if one.name != ORIGINAL
    ]
