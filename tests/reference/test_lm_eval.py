"""lm-evaluation-harness, on the bundled story endings as a task of its own, gives the scores that quantlab gives.

It is not among the packages that tests install (it brings thirty others), so this runs where somebody has it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quantlab.assets import bundled
from quantlab.errors import QuantlabError, UsageError
from quantlab.evaluate import lm_eval
from quantlab.evaluate.logits import TorchLogits
from quantlab.evaluate.task import read_choices, score_choices
from quantlab.formats.catalog import get
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers

TASK = """\
task: quantlab_endings
dataset_path: json
dataset_kwargs: {{data_files: "{path}"}}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{[right, wrong]}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
  - metric: acc_norm
metadata: {{version: 1}}
"""


@pytest.mark.skipif(lm_eval.available() is not None, reason=lm_eval.HOW_TO_GET)
class TestWithTheHarness:
    @pytest.fixture
    def tasks(self, tmp_path: Path) -> Path:
        (tmp_path / "tasks").mkdir()
        endings = bundled("assets/stories/endings.jsonl")
        (tmp_path / "tasks" / "endings.yaml").write_text(TASK.format(path=endings), encoding="utf-8")
        return tmp_path / "tasks"

    @pytest.mark.parametrize("fmt", [None, "int2_g128"])
    def test_its_scores_are_ours(self, tiny: LoadedModel, tasks: Path, fmt: str | None) -> None:
        weights = {}
        if fmt:
            weights = {name: get(fmt).quantize(layer.weight).dequantize() for name, layer in linear_layers(tiny.model)}
        theirs = lm_eval.evaluate(tiny, ["quantlab_endings"], weights, include=tasks)["quantlab_endings"]
        parameters = {f"{name}.weight": W for name, W in weights.items()}
        choices = read_choices(tiny.tokenizer, tiny.config.max_position_embeddings)
        ours = score_choices(TorchLogits(tiny.model, parameters), choices)
        assert theirs["acc"].value == pytest.approx(ours.acc.double().mean().item())
        assert theirs["acc_norm"].value == pytest.approx(ours.acc_norm.double().mean().item())
        assert theirs["acc"].stderr is not None

    def test_the_model_is_as_it_was(self, tiny: LoadedModel, tasks: Path) -> None:
        name, layer = next(iter(linear_layers(tiny.model)))
        before = layer.weight.detach().clone()
        lm_eval.evaluate(tiny, ["quantlab_endings"], {name: torch.zeros_like(before)}, limit=2, include=tasks)
        assert torch.equal(layer.weight, before)

    def test_an_unknown_task_is_named(self, tiny: LoadedModel, tasks: Path) -> None:
        with pytest.raises(UsageError, match="no task arc_hardest"):
            lm_eval.evaluate(tiny, ["arc_hardest"], include=tasks)


def test_without_it_there_is_one_sentence(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval, "find_spec", lambda name: None)
    with pytest.raises(QuantlabError, match="pip install lm_eval"):
        lm_eval.evaluate(tiny, ["arc_easy"])


def test_bad_input_is_named(tiny: LoadedModel) -> None:
    with pytest.raises(UsageError, match="at least one task"):
        lm_eval.evaluate(tiny, [])
    with pytest.raises(UsageError, match="limit"):
        lm_eval.evaluate(tiny, ["arc_easy"], limit=0)
