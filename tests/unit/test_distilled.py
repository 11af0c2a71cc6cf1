"""The distilled model that is bundled: what the kept rows say of it is what it does."""

from __future__ import annotations

import pytest

from quantlab.evaluate.logits import Baseline, TorchLogits
from quantlab.evaluate.quality import measure
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.lesson import distilled
from quantlab.models.load import load


def test_the_rows_are_of_the_bundled_model() -> None:
    teacher, student = load("tiny"), load(str(distilled.folder()))
    row = next(row for row in distilled.rows() if row.name.startswith("distilled"))
    assert sum(p.numel() for p in student.model.parameters()) == row.parameters
    assert 4 * row.parameters == pytest.approx(distilled.rows()[0].parameters, rel=0.02)
    windows = make_windows(evaluation_texts(), teacher.tokenizer, teacher.source.folder, 512)
    baseline = Baseline(TorchLogits(teacher.model), windows, teacher.config.vocab_size)
    assert measure(TorchLogits(student.model), baseline).kl_mean == pytest.approx(row.kl, rel=0.01)


def test_fewer_bytes_lose_more() -> None:
    files = sorted((row for row in distilled.rows() if row.name.startswith("original")), key=lambda row: row.nbytes)
    assert [row.kl for row in files] == sorted((row.kl for row in files), reverse=True)
