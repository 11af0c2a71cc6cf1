"""What lesson 4 measures, once: formats of the story model on 24 stories, and llama.cpp's files with their speed.

    of_stories("int4_g128").kl              # token by token; `cluster` is the story
    files()                                 # llama.cpp's types: bytes, KL divergence, tokens a second on this machine
"""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path

from quantlab.evaluate.compare import compare
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.quality import Quality, measure
from quantlab.evaluate.report import Comparison
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.formats.catalog import get
from quantlab.lesson.lesson2.story import story_model

STORIES = 24
FILES = ("f16", "q8_0", "q6_k", "q4_k_m", "q4_0", "q3_k_m", "q2_k")


@lru_cache(maxsize=1)
def baseline() -> Baseline:
    """The unquantized model's logits on the first 24 bundled stories."""
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


@lru_cache(maxsize=1)
def files() -> Comparison:
    """The story model in llama.cpp's types: quality on the same stories, and speed on this machine."""
    with tempfile.TemporaryDirectory(prefix="quantlab-lesson4-") as folder:
        text = Path(folder) / "stories.jsonl"
        text.write_text("".join(json.dumps({"text": story}) + "\n" for story in evaluation_texts()[:STORIES]))
        return compare(story_model().loaded, FILES, text=text, speed=True)
