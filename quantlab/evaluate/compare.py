"""The main job: one model, many formats, what each costs.

>>> import quantlab
>>> result = quantlab.compare("tiny", ["int8", "int4_g128"])          # doctest: +SKIP
>>> result.row("int4_g128").kl_mean                                   # doctest: +SKIP
0.0123

Each format is quantized, measured on the same windows of the same text, and thrown away before the next, so memory
holds one quantized model beside the original. Temporary files live in a folder that is removed whatever happens.

Where methods and libraries compete (`bits`, or a name that says a method), each is also compared with the best of them,
story by story: "better" is only what chance would not give as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantlab.backends.quantizers.text import read_texts
from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate.candidates import Candidate, NotApplicableError, Recipe, Subject
from quantlab.evaluate.front import Budget
from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.names import AT_BITS, BASELINE, CONTEXT, DEFAULT_FORMATS, GROUP, GROUPS, INTEGERS, crossed
from quantlab.evaluate.quality import NotFiniteError, Quality, measure, measure_baseline, perplexity_change
from quantlab.evaluate.recipes import problem_of, recipe
from quantlab.evaluate.report import ENDINGS, Comparison, Row, Task
from quantlab.evaluate.rows_speed import Timed, choose_from
from quantlab.evaluate.statistics import chance, clustered_stderr, share_stderr
from quantlab.evaluate.task import Choice, Scores, mcnemar, read_choices, score_choices
from quantlab.evaluate.task_files import read_items
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.models.load import LoadedModel, load
from quantlab.models.walk import linear_layers

Progress = Callable[[str, float], None]  # what is being done, and the share of the whole that is done


def compare(
    model: str | LoadedModel,
    formats: Sequence[str] | None = None,
    *,
    methods: Sequence[str] | None = None,
    bits: int | None = None,
    text: Path | None = None,
    task: Path | None = None,
    calibration: Path | None = None,
    context: int | None = None,
    revision: str | None = None,
    trust_remote_code: str | bool = False,
    speed: bool = False,
    budget: Budget | None = None,
    progress: Progress = lambda what, share: None,
) -> Comparison:
    """Measure what each format costs a model: size, perplexity, KL divergence, agreement, a small task, time.

    model: `tiny`, a folder, a Hub id, or one already loaded. formats: names as `quantlab.evaluate.names` spells them;
    the baseline bf16 is always measured. methods: each in each of the formats, or in integers of so many `bits` (4).
    bits alone: all that competes at 2, 3, 4 or 8 bits. text: a .txt or .jsonl file; without it the 60 bundled stories.
    task: questions with choices, a .jsonl file (quantlab.evaluate.task_files); without it the bundled story endings.
    calibration: a text too, for methods that need a text; without it the bundled ones. context: tokens a window, 512 or
    what the model can take. speed: measure tokens a second of what llama.cpp runs. budget: recommend one within it. A
    library that is absent is named in a sentence; one that was asked for by name raises.
    Raises UsageError for an unknown name, QuantlabError for a model that cannot be loaded.
    """
    names, by_name = _names(formats, methods, bits), formats is not None or methods is not None
    _choose(_in_groups(names, GROUPS[0]), by_name)  # so that errors come before the work
    texts = evaluation_texts(text)
    if task is not None:
        read_items(task)  # so that its errors come before the work
    calibrate_on = None if calibration is None else read_texts(calibration)
    progress("loading the model", 0.0)
    loaded = load(model, revision, trust_remote_code) if isinstance(model, str) else model
    chosen, left_out = _choose(_in_groups(names, _group(loaded)), by_name)
    longest = getattr(loaded.config.get_text_config(), "max_position_embeddings", None) or CONTEXT
    if context is not None and context > longest:
        raise UsageError(f"{loaded.source.name} takes at most {longest} tokens, not {context}; give a smaller context")
    windows = make_windows(texts, loaded.tokenizer, loaded.source.folder, context or min(CONTEXT, longest))
    choices = read_choices(loaded.tokenizer, windows.passport.context, task)
    vocab = loaded.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    baseline = Baseline(TorchLogits(loaded.model), windows, vocab)
    steps = _Steps(progress, len(chosen) * (len(windows.windows) + len(choices)))
    with tempfile.TemporaryDirectory(prefix="quantlab-compare-") as workdir:
        subject = Subject(loaded, texts, windows, Path(workdir), calibrate_on, steps.detail)
        if calibrate_on is not None:
            subject.calibration  # too little text is said now  # noqa: B018
        timed = Timed(Path(workdir)) if speed else None
        rows, found = _rows(chosen, subject, baseline, choices, steps, timed)
        rows, runs = timed.measured(rows, steps.detail) if timed else (rows, None)
    if by_method := any(":" in one.name for one in chosen):
        rows = [_placed(row, found) for row in rows]
    asked = Task(ENDINGS if task is None else task.name, len(choices))
    on_front, advice = choose_from(rows, found, budget) if speed or budget else ((), "")
    return Comparison(
        loaded.source.name, windows.passport, tuple(rows), tuple(left_out), by_method, asked, runs, on_front, advice
    )


def _names(formats: Sequence[str] | None, methods: Sequence[str] | None, bits: int | None) -> Sequence[str]:
    """What is to be measured, as it is spelled."""
    if bits is not None and (formats is not None or bits not in AT_BITS):
        known = ", ".join(map(str, sorted(AT_BITS)))
        raise UsageError(f"bits must be one of {known}, and with formats it is left out; got {bits}")
    if methods is not None:
        return crossed(methods, [INTEGERS[bits or 4]] if formats is None else formats)
    if bits is not None:
        return AT_BITS[bits]
    return DEFAULT_FORMATS if formats is None else formats


def _in_groups(names: Sequence[str], group: int) -> list[str]:
    return [name.replace(GROUP, str(group)) for name in names]


def _group(loaded: LoadedModel) -> int:
    """The largest group that divides every row of this model."""
    rows = {layer.in_features for _, layer in linear_layers(loaded.model)}
    return next((group for group in GROUPS if all(k % group == 0 for k in rows)), GROUPS[-1])


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

    def detail(self, what: str) -> None:
        """What is being done while nothing can be counted."""
        self.report(f"{self.what}: {what}", self.done / self.total)


def _choose(names: Sequence[str], by_name: bool) -> tuple[list[Recipe], list[str]]:
    """The recipes to measure, the baseline first, and a sentence for each library that is absent.

    by_name: the caller named them, so that an absent library is an error.
    """
    recipes = [recipe(name) for name in dict.fromkeys((BASELINE, *names))]
    problems = {backend: problem_of(backend) for backend in dict.fromkeys(one.backend for one in recipes)}
    left_out = []
    for backend, problem in problems.items():
        absent = ", ".join(one.name for one in recipes if one.backend == backend)
        if problem is not None and by_name:
            raise QuantlabError(f"{absent} cannot be measured: {problem}")
        if problem is not None:
            left_out.append(f"Left out ({absent}): {problem}.")
    return [one for one in recipes if problems[one.backend] is None], left_out


def _rows(
    chosen: list[Recipe],
    subject: Subject,
    baseline: Baseline,
    choices: list[Choice],
    steps: _Steps,
    timed: Timed | None,
) -> tuple[list[Row], dict[str, Quality]]:
    """Make and measure one format after the other, the first is the baseline; and what was measured, by name."""
    rows: list[Row] = []
    found: dict[str, Quality] = {}
    answers: dict[str, Scores] = {}
    for number, one in enumerate(chosen):
        steps.start(one.name, number * (len(baseline.text.windows) + len(choices)))
        names = (one.name, one.format, one.method, one.backend)
        try:
            with one.make(subject) as candidate:
                if not found:
                    quality = measure_baseline(baseline, steps.step)
                else:
                    quality = measure(candidate.source, baseline, steps.step)
                if timed and candidate.gguf is not None:
                    timed.keep(one.name, candidate.gguf)
                answers[one.name] = score_choices(candidate.source, choices, steps.step)
                found[one.name] = quality
                figures = _figures(candidate, quality, found[BASELINE])
                rows.append(Row(*names, **(figures | _answered(answers[one.name], answers[BASELINE]))))
        except NotApplicableError as reason:
            rows.append(Row(*names, note=f"not applied: {reason}"))
        except NotFiniteError as reason:
            if not found:
                raise
            rows.append(Row(*names, note=str(reason)))
    steps.start("done", steps.total)
    return rows, found


def _placed(row: Row, found: Mapping[str, Quality]) -> Row:
    """The row with its distance to the one of the lowest KL divergence; the baseline does not compete."""
    if row.name == BASELINE or row.name not in found:
        return row
    best = min((one for name, one in found.items() if name != BASELINE), key=lambda quality: quality.kl_mean)
    one = found[row.name]
    return replace(
        row, behind=one.kl_mean - best.kl_mean, behind_stderr=clustered_stderr(one.kl - best.kl, one.cluster),
        behind_p=chance(one.kl, best.kl, one.cluster),
    )  # fmt: skip


def _answered(scores: Scores, original: Scores) -> dict[str, Any]:
    """The task's figures of a row, by name."""
    return {
        "task_accuracy": scores.acc_norm.double().mean().item(),
        "task_stderr": share_stderr(scores.acc_norm),
        "task_p": mcnemar(scores.acc_norm, original.acc_norm),
        "task_acc": scores.acc.double().mean().item(),
        "task_acc_stderr": share_stderr(scores.acc),
    }


def _figures(candidate: Candidate, quality: Quality, original: Quality) -> dict[str, Any]:
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
        "peak_bytes": candidate.peak_bytes,
        "note": candidate.note,
    }


__all__ = ["Comparison", "Progress", "Row", "compare"]
