"""The main job: one model, many formats, what each costs.

>>> import quantlab
>>> result = quantlab.compare("tiny", ["int8", "int4_g128"])          # doctest: +SKIP
>>> result.row("int4_g128").kl_mean                                   # doctest: +SKIP
0.0123

Each format is quantized, measured on the same windows of the same text, and thrown away before the next, so memory
holds one quantized model beside the original. Temporary GGUF files live in a folder that is removed whatever happens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from quantlab.backends import bitsandbytes, llama_cpp
from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.names import BASELINE, CONTEXT, DEFAULT_FORMATS
from quantlab.evaluate.quality import NotFiniteError, Quality, measure, measure_baseline, perplexity_change
from quantlab.evaluate.recipes import RECIPES, Candidate, NotApplicableError, Recipe, Subject
from quantlab.evaluate.report import Comparison, Row
from quantlab.evaluate.statistics import share_stderr
from quantlab.evaluate.task import Choice, read_choices, score_choices
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.models.load import LoadedModel, load

Progress = Callable[[str, float], None]  # what is being done, and the share of the whole that is done


def compare(
    model: str | LoadedModel,
    formats: Sequence[str] | None = None,
    *,
    text: Path | None = None,
    context: int | None = None,
    revision: str | None = None,
    trust_remote_code: str | bool = False,
    progress: Progress = lambda what, share: None,
) -> Comparison:
    """Measure what each format costs a model: size, perplexity, KL divergence, agreement, a small task, time.

    model: `tiny`, a folder, a Hub id, or one already loaded. formats: names of RECIPES; the baseline bf16 is always
    measured. text: a .txt or .jsonl file; without it the 60 bundled stories. context: tokens a window, 512 or what the
    model can take. Without `formats`, those whose library is missing are left out with a sentence; asked for by name,
    they raise. Raises UsageError for an unknown format, QuantlabError for a model that cannot be loaded.
    """
    chosen, left_out = _choose(formats)
    progress("loading the model", 0.0)
    loaded = load(model, revision, trust_remote_code) if isinstance(model, str) else model
    longest = getattr(loaded.config.get_text_config(), "max_position_embeddings", None) or CONTEXT
    if context is not None and context > longest:
        raise UsageError(f"{loaded.source.name} takes at most {longest} tokens, not {context}; give a smaller context")
    texts = evaluation_texts(text)
    windows = make_windows(texts, loaded.tokenizer, loaded.source.folder, context or min(CONTEXT, longest))
    choices = read_choices(loaded.tokenizer, windows.passport.context)
    vocab = loaded.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    baseline = Baseline(TorchLogits(loaded.model), windows, vocab)
    steps = _Steps(progress, len(chosen) * (len(windows.windows) + len(choices)))
    with tempfile.TemporaryDirectory(prefix="quantlab-compare-") as workdir:
        subject = Subject(loaded, texts, windows, Path(workdir))
        rows = _rows(chosen, subject, baseline, choices, steps)
    return Comparison(loaded.source.name, windows.passport, rows, tuple(left_out))


@dataclass
class _Steps:
    """Counts windows and items across all rows."""

    report: Progress
    total: int
    done: int = 0
    what: str = ""

    def start(self, what: str, at: int) -> None:
        self.what, self.done = what, at
        self.report(what, at / self.total)

    def step(self) -> None:
        self.done += 1
        self.report(self.what, self.done / self.total)


def _choose(formats: Sequence[str] | None) -> tuple[list[Recipe], list[str]]:
    """The recipes to measure, the baseline first, and a sentence for each backend that is absent."""
    for name in formats or ():
        if name not in RECIPES:
            raise unknown("format", name, RECIPES)
    names = dict.fromkeys((BASELINE, *(DEFAULT_FORMATS if formats is None else formats)))
    chosen, left_out = [], []
    problems = {"llama.cpp": llama_cpp.available(), "bitsandbytes": bitsandbytes.available()}
    for backend, problem in problems.items():
        absent = [name for name in names if problem is not None and RECIPES[name].backend == backend]
        if absent and formats is not None:
            raise QuantlabError(f"{', '.join(absent)} cannot be measured: {problem}")
        if absent:
            left_out.append(f"Left out ({', '.join(absent)}): {problem}.")
    for name in names:
        if problems.get(RECIPES[name].backend) is None:
            chosen.append(RECIPES[name])
    return chosen, left_out


def _rows(
    chosen: list[Recipe], subject: Subject, baseline: Baseline, choices: list[Choice], steps: _Steps
) -> tuple[Row, ...]:
    """Make and measure one format after the other; the first is the baseline."""
    rows: list[Row] = []
    original: Quality | None = None
    for number, recipe in enumerate(chosen):
        steps.start(recipe.format, number * (len(baseline.text.windows) + len(choices)))
        names = (recipe.format, recipe.method, recipe.backend)
        try:
            with recipe.make(subject) as candidate:
                if original is None:
                    quality = original = measure_baseline(baseline, steps.step)
                else:
                    quality = measure(candidate.source, baseline, steps.step)
                right = score_choices(candidate.source, choices, steps.step)
                rows.append(Row(*names, **_figures(candidate, quality, original, right)))
        except NotApplicableError as reason:
            rows.append(Row(*names, note=f"not applied: {reason}"))
        except NotFiniteError as reason:
            if original is None:
                raise
            rows.append(Row(*names, note=str(reason)))
    steps.start("done", steps.total)
    return tuple(rows)


def _figures(candidate: Candidate, quality: Quality, original: Quality, right: Tensor) -> dict[str, Any]:
    """The figures of a row, by name."""
    own = ("perplexity", "perplexity_stderr", "kl_mean", "kl_stderr", "top1_agreement", "top1_stderr")
    change, change_stderr = perplexity_change(quality, original)
    return {
        **{name: getattr(quality, name) for name in own},
        "perplexity_change": change,
        "perplexity_change_stderr": change_stderr,
        "bits_per_weight": candidate.bits_per_weight,
        "nbytes": candidate.nbytes,
        "quantize_s": candidate.quantize_s,
        "task_accuracy": right.double().mean().item(),
        "task_stderr": share_stderr(right),
        "note": candidate.note,
    }


__all__ = ["Comparison", "Progress", "Row", "compare"]
