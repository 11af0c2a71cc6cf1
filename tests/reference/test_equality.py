"""The page of tools/equality.py: its figures tell equal from different, and its words are those of its figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from checkpoint_cases import quantize, weights_of
from equality import PAIRS
from equality_figures import identical, measure, same
from equality_page import page

from quantlab.checkpoints.write import write_checkpoint
from quantlab.evaluate.windows import evaluation_texts, make_windows
from quantlab.models.load import LoadedModel

DOCS = Path(__file__).parents[2] / "docs"
FOUND = json.loads((DOCS / "equality.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def two(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and one in which the first code of one layer is another."""
    place = tmp_path_factory.mktemp("two")
    layers = quantize(weights_of(tiny_folder), "int4_g128", scale_dtype="bfloat16")
    right = write_checkpoint(tiny_folder, place / "right", layers)
    name, Q = next(iter(layers.items()))
    q, p = Q.fmt.packing.unpack(Q.parts, Q.shape)
    q[0, 0] ^= 8
    return right, write_checkpoint(tiny_folder, place / "wrong", {**layers, name: Q.fmt.store(q, p)})


def test_one_code_in_millions_is_seen(two: tuple[Path, Path], tiny: LoadedModel) -> None:
    right, wrong = two
    weights = sum(W.numel() for W in weights_of(tiny.source.folder).values())
    assert same(right, right).codes == same(right, right).nbytes == 1
    found = same(right, wrong)
    assert found.codes == pytest.approx(1 - 1 / weights, abs=1e-12)
    assert found.codes < 1
    assert found.scales == 1
    assert found.again
    assert identical(right, right)
    assert not identical(right, wrong)
    text = make_windows(evaluation_texts()[:2], tiny.tokenizer, tiny.source.folder, 512)
    with torch.inference_mode():
        figures = measure(right, wrong, tiny, text, alike=False)
    assert 1e-4 < figures.logits < 5
    assert figures.perplexity != figures.their_perplexity


def test_the_page_is_that_of_its_figures() -> None:
    assert (DOCS / "equality.md").read_text(encoding="utf-8") == page(FOUND)


def test_every_pair_is_on_the_page() -> None:
    rows = FOUND["models"]["tiny"]["rows"]
    assert [(row["library"], row["method"], row["format"]) for row in rows] == [
        (pair.library, pair.method, pair.format) for pair in PAIRS
    ]
    assert not [row["error"] for row in rows if "error" in row]


@pytest.mark.parametrize("model", FOUND["models"])
def test_what_rounds_to_nearest_is_the_librarys_file(model: str) -> None:
    for row in FOUND["models"][model]["rows"]:
        if not row["why"]:
            assert row["identical"], row["name"]
        other_scales = (row["library"], row["method"]) == ("gptqmodel", "awq")  # in bfloat16, ours in float16
        assert row["again"] in ((False,) if other_scales else (True, None)), row["name"]


def test_no_figure_is_left_without_words() -> None:
    text = page(FOUND)
    assert "None" not in text
    assert "nan" not in text.lower().split()
    assert re.search(r"\d+ of \d+ are equal byte for byte", text)
