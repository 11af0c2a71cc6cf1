"""lm-evaluation-harness on a model in memory, with some of its weights replaced: its own tasks, its own scores.

    scores = evaluate(loaded, ["arc_easy", "piqa"], weights={"model.layers.0.mlp.up_proj": W_hat, ...}, limit=200)
    scores["arc_easy"]["acc_norm"]                     # Score(value=0.61, stderr=0.03)

The harness fetches its data sets from the Hub; `include` names a folder of tasks of one's own (YAML). In tasks of
choices a BOS stands before every text where the tokenizer has one, as everywhere in quantlab. A folder that
transformers loads needs none of this: `lm_eval --model hf --model_args pretrained=DIR --tasks arc_easy`.

Reference: lm-evaluation-harness 0.4 (`simple_evaluate`, `HFLM`), which is not installed with quantlab. On questions
that quantlab asks itself (`quantlab compare --task`) both give the same `acc` and `acc_norm`:
tests/reference/test_lm_eval.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate.logits import with_weights
from quantlab.models.load import LoadedModel

HOW_TO_GET = "lm-evaluation-harness is not installed; get it with: pip install lm_eval"


@dataclass(frozen=True)
class Score:
    """A figure of the harness, and its standard error; None where it gives none."""

    value: float
    stderr: float | None


def available() -> str | None:
    """None when the harness can be imported, else the sentence that says how to get it."""
    return None if find_spec("lm_eval") else HOW_TO_GET


def evaluate(
    loaded: LoadedModel,
    tasks: Sequence[str],
    weights: Mapping[str, Tensor] | None = None,
    *,
    limit: int | None = None,
    include: Path | None = None,
) -> dict[str, dict[str, Score]]:
    """Every figure of every task, by name. weights: layer -> W_hat [n, k] that stands for its weights.

    limit: so many questions of each task. Raises QuantlabError where the harness is missing or a task cannot be had.
    """
    if not tasks or (limit is not None and limit < 1):
        raise UsageError("name at least one task, and a limit of at least 1 question")
    if (problem := available()) is not None:
        raise QuantlabError(problem)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include is None else str(include))
    if unknown := [task for task in tasks if task not in manager.all_tasks]:
        raise UsageError(f"the harness has no task {', '.join(unknown)}; `lm_eval --tasks list` prints those it has")
    replaced = {f"{name}.weight": W for name, W in (weights or {}).items()}
    model = with_weights(loaded.model, replaced) if replaced else loaded.model
    lm = _with_bos(HFLM)(pretrained=model, tokenizer=loaded.tokenizer, batch_size=1)
    try:
        done = simple_evaluate(model=lm, tasks=list(tasks), task_manager=manager, limit=limit, bootstrap_iters=1000)
    except (OSError, ConnectionError, ValueError) as error:
        raise QuantlabError(f"the harness could not run {', '.join(tasks)}: {error}") from error
    return {task: _scores(done["results"][task]) for task in tasks}


def _with_bos(harness: Any) -> Any:
    """The harness's model with a BOS before every text; its own `add_bos_token` asks the tokenizer, which may not."""

    class WithBos(harness):  # type: ignore[misc]
        def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
            ids: list[int] = super().tok_encode(string, *args, **kwargs)
            bos = self.tokenizer.bos_token_id
            return ids if bos is None or ids[:1] == [bos] else [bos, *ids]

    return WithBos


def _scores(found: Mapping[str, Any]) -> dict[str, Score]:
    """{"acc,none": 0.6, "acc_stderr,none": 0.02} -> {"acc": Score(0.6, 0.02)}."""
    plain = {key.split(",")[0]: value for key, value in found.items()}
    figures = {key: value for key, value in plain.items() if isinstance(value, float) and not key.endswith("_stderr")}
    errors = {key: plain.get(f"{key}_stderr") for key in figures}
    return {key: Score(v, e if isinstance(e := errors[key], float) else None) for key, v in figures.items()}
