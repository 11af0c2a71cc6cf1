"""The contest of lesson 3: a method and a format, applied to the whole story model, measured on stories it never saw.

    one = enter("gptq", "int3_g128")                          # quantized, measured, put back
    one.quality.kl_mean, one.bits_per_weight, one.seconds
    enter("gptq", "int3_g128", calibrations.text("Python code"))
    left_of(one, other)                                       # share of other's KL divergence, and its standard error

Lesson, exercises and claims share the results: each entry is run once. All look at the same sixteen stories, once, in
the original model, as AutoAWQ does. All are judged on the eight stories of lesson 2.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from quantlab.core import Format, LayerStats
from quantlab.evaluate.logits import TorchLogits
from quantlab.evaluate.quality import Quality, measure, perplexity_change
from quantlab.evaluate.statistics import clustered_stderr
from quantlab.formats.catalog import get
from quantlab.lesson.lesson2.story import EVALUATED, story_model
from quantlab.methods import catalog
from quantlab.methods.catalog import Method
from quantlab.models.calibration import collect
from quantlab.models.families import Input, blocks
from quantlab.models.quantize import quantize
from quantlab.models.samples import Calibration, stories

CALIBRATED = 16  # stories
PAPERS = {"awq": {"duo": "no"}}  # the family of scales that the method's paper has


@dataclass(frozen=True)
class Entry:
    """What a method in a format made of the model: its quality, the bits of its linear layers, the seconds it took."""

    method: str
    fmt: str
    quality: Quality
    bits_per_weight: float
    seconds: float

    @property
    def kl(self) -> str:
        """KL divergence and its standard error, in nats a token."""
        return f"{self.quality.kl_mean:.4f} ± {self.quality.kl_stderr:.4f}"

    @property
    def percent(self) -> tuple[float, float]:
        """By how many per cent the perplexity rose, and the standard error of that; paired by story."""
        change, stderr = perplexity_change(self.quality, story_model().original)
        return 100 * change, 100 * stderr


@lru_cache(maxsize=1)
def sixteen_stories() -> Calibration:
    """The text that all methods look at."""
    return Calibration(tuple(stories()[:CALIBRATED]))


@lru_cache(maxsize=1)
def _of_stories() -> Mapping[str, LayerStats]:
    return collect(story_model().loaded, sixteen_stories())


def enter(method: str, fmt: str, text: Calibration | None = None, aim: bool = False) -> Entry:
    """Quantize every linear layer and measure; the model stays as it was.

    text: None is the sixteen stories, for methods that look at text. aim: `awq_gptq` walks through the model block
    after block, and makes up for the layers before; so little text is not enough to gain by it.
    """
    return _enter(method, fmt, None if text == sixteen_stories() else text, aim)


@lru_cache(maxsize=64)
def _enter(method: str, fmt: str, text: Calibration | None, aim: bool) -> Entry:
    chosen, form = catalog.get(method), get(fmt)
    if chosen.paired and aim:
        return _walked(chosen, fmt, text or sixteen_stories())
    looks = chosen.needs_stats or chosen.scale is not None
    stats = (_of_stories() if text is None else collect(story_model().loaded, text)) if looks else None
    model, started = story_model(), time.perf_counter()
    weights: dict[str, Tensor] = {}
    nbytes = 0
    for block in blocks(model.loaded.model):
        for shared in block.inputs:
            seen = None if stats is None else stats[shared.name]
            for name, (W_hat, size) in _shared(chosen, form, shared, seen).items():
                weights[name], nbytes = W_hat, nbytes + size
    seconds = time.perf_counter() - started
    bits = 8 * nbytes / sum(W.numel() for W in weights.values())
    return Entry(method, fmt, model.quality(weights), bits, seconds)


def _shared(chosen: Method, form: Format, shared: Input, stats: LayerStats | None) -> dict[str, tuple[Tensor, int]]:
    """W_hat and bytes of the layers that read one input, and so share its scale."""
    model, options = story_model(), PAPERS.get(chosen.name, {})
    Ws = [model.layers[name] for name in shared.layers]
    scale = torch.ones(Ws[0].shape[1])
    if chosen.scale is not None and stats is not None and shared.sharing == 1:  # else nothing can divide the input
        scale = chosen.scale(Ws, stats, form, **options)
        stats, Ws = stats.scaled(scale), [W * scale for W in Ws]
    if chosen.together is not None:
        stored = chosen.together(Ws, stats, form)
    else:
        stored = [chosen.quantize(W, stats, form) for W in Ws]
    return {name: (Q.dequantize() / scale, Q.nbytes) for name, Q in zip(shared.layers, stored, strict=True)}


def _walked(chosen: Method, fmt: str, text: Calibration) -> Entry:
    """By `quantlab.quantize`, which walks block after block, and puts everything back."""
    model = story_model()
    whole = model.original  # so that its predictions are kept before anything changes
    assert whole is not None
    done = quantize(model.loaded, chosen, fmt, text)
    try:
        quality = measure(TorchLogits(model.loaded.model), model.baseline)
        return Entry(chosen.name, fmt, quality, done.bits_per_weight, done.seconds)
    finally:
        done.undo()


@lru_cache(maxsize=8)
def enter_llama_cpp(ftype: str) -> Entry:
    """The same for llama.cpp: a file of this type, made and run by llama.cpp itself, embeddings quantized as well."""
    from quantlab.evaluate.candidates import Subject
    from quantlab.evaluate.recipes import recipe
    from quantlab.evaluate.windows import evaluation_texts

    model = story_model()
    with tempfile.TemporaryDirectory(prefix="quantlab-lesson3-") as folder:
        texts = evaluation_texts()[:EVALUATED]
        subject = Subject(model.loaded, texts, model.baseline.text, Path(folder))
        with recipe(ftype).make(subject) as made:
            return Entry(
                "llama.cpp", ftype, measure(made.source, model.baseline), made.bits_per_weight, made.quantize_s
            )


def left_of(one: Entry, other: Entry) -> tuple[float, float]:
    """KL divergence of `one` as a share of `other`'s, and its standard error, paired token by token."""
    share = one.quality.kl_mean / other.quality.kl_mean
    off = (one.quality.kl - share * other.quality.kl) / other.quality.kl_mean
    return share, clustered_stderr(off, one.quality.cluster)


def table_rows(entries: Iterable[Entry]) -> list[tuple[str, str, str, str, str]]:
    """Method, format, bits, KL divergence, same next token: the rows of the lesson's table."""
    return [
        (e.method, e.fmt, f"{e.bits_per_weight:.3f}", e.kl,
         f"{e.quality.top1_agreement:.1%} ± {e.quality.top1_stderr:.1%}")
        for e in entries
    ]  # fmt: skip
