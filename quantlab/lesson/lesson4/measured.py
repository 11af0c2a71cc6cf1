"""What lesson 4 measures, once: formats of the story model on 12 stories, and llama.cpp's files with their speed.

of_stories("int4_g128").kl              # token by token; `cluster` is the story
files().rows                            # llama.cpp's types: bytes, KL divergence, tokens a second on this machine
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from quantlab.evaluate.candidates import Subject
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.quality import Quality, measure
from quantlab.evaluate.recipes import recipe
from quantlab.evaluate.report import Row, Runs
from quantlab.evaluate.rows_speed import Timed, choose_from
from quantlab.evaluate.statistics import LEVEL, chance
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.formats.catalog import get
from quantlab.lesson.lesson2.story import story_model

STORIES = 12
FILES = ("f16", "q8_0", "q4_k_m", "q4_0", "q2_k")


@lru_cache(maxsize=1)
def baseline() -> Baseline:
    """The unquantized model's logits on the first 12 bundled stories."""
    loaded = story_model().loaded
    windows = make_windows(
        evaluation_texts()[:STORIES], loaded.tokenizer, loaded.source.folder, loaded.config.max_position_embeddings
    )
    return Baseline(TorchLogits(loaded.model), windows, loaded.config.vocab_size)


@lru_cache(maxsize=16)
def of_stories(fmt: str) -> Quality:
    """The story model with every layer rounded to a format of quantlab's."""
    model, grid = story_model(), get(fmt)
    weights = {f"{name}.weight": grid.quantize(W).dequantize() for name, W in model.layers.items()}
    return measure(TorchLogits(model.loaded.model, weights), baseline())


@dataclass(frozen=True)
class Files:
    """llama.cpp's files of the story model: rows as in `quantlab compare`, how speed was measured, and the front."""

    rows: tuple[Row, ...]
    runs: Runs
    front: tuple[str, ...]
    quality: Mapping[str, Quality]

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)

    def worse(self, a: str, b: str) -> bool:
        """Whether the stories tell the KL divergences of two files apart."""
        one, other = self.quality[a], self.quality[b]
        return chance(one.kl, other.kl, one.cluster) < LEVEL


@lru_cache(maxsize=1)
def files() -> Files:
    """Make each file, measure it with llama.cpp on the stories, then time all of them in turns."""
    rows, quality, loaded = [], {}, story_model().loaded
    with tempfile.TemporaryDirectory(prefix="quantlab-lesson4-") as folder:
        subject = Subject(loaded, evaluation_texts()[:STORIES], baseline().text, Path(folder))
        timed = Timed(Path(folder))
        for ftype in FILES:
            one = recipe(ftype)
            with one.make(subject) as made:
                quality[ftype] = found = measure(made.source, baseline())
                assert made.gguf is not None
                timed.keep(ftype, made.gguf)
                rows.append(
                    Row(
                        ftype, one.format, one.method, one.backend, made.bits_per_weight, made.nbytes, found.perplexity,
                        found.kl_mean, found.kl_stderr, found.top1_agreement,
                    )
                )  # fmt: skip
        rows, runs = timed.measured(rows, lambda what: None, prompt=128, generate=32)
    assert runs is not None
    front, _ = choose_from(rows, quality, None)
    return Files(tuple(rows), runs, front, quality)
