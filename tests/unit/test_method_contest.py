"""Lesson 3's contest, its calibration texts, the libraries on one layer, and the checkpoint with the wrong group."""

from __future__ import annotations

import inspect
import json
import os
import re

import pytest
import torch

from quantlab.assets import bundled
from quantlab.core import LayerStats
from quantlab.errors import QuantlabError
from quantlab.formats.catalog import get
from quantlab.lesson.lesson2.story import difference, story_model
from quantlab.lesson.lesson3 import calibrations, recorded
from quantlab.lesson.lesson3.contest import enter, enter_llama_cpp, left_of, sixteen_stories, table_rows
from quantlab.lesson.lesson3.exercises import own_layer, own_text
from quantlab.lesson.lesson3.libraries import DIFFERENCES, QUESTIONS, SOURCES, autoawq_scale, differences, quiet
from quantlab.lesson.lesson3.llama_files import same_as_llama_cpp
from quantlab.lesson.lesson3.own_layer import fewest_bits, output_errors
from quantlab.lesson.lesson3.wrong_group import quality_if_believed, stored, what_the_verifier_says
from quantlab.methods.awq import candidates
from quantlab.models.samples import windows


# ------------------------------------------------------------------------------------------- the contest
def test_an_entry_is_what_quantize_makes_and_the_model_stays_as_it_was() -> None:
    model = story_model()
    before = {name: W.clone() for name, W in model.layers.items()}
    entry = enter("rtn", "int3_g128")
    W_hat = {name: get("int3_g128").quantize(W).dequantize() for name, W in model.layers.items()}
    assert entry.quality.kl_mean == pytest.approx(model.quality(W_hat).kl_mean, rel=1e-4)
    assert entry.bits_per_weight == pytest.approx(3.125, abs=0.01)
    assert all(torch.equal(before[name], W) for name, W in model.layers.items())


def test_gptq_leaves_a_share_of_the_damage_beyond_the_error_bars() -> None:
    plain, better = enter("rtn", "int3_g128"), enter("gptq", "int3_g128")
    share, stderr = left_of(better, plain)
    assert 0.3 < share < 0.8
    assert stderr < 0.05
    gain, error = difference(plain.quality, better.quality)
    assert gain > 4 * error
    assert left_of(plain, plain) == (1.0, pytest.approx(0, abs=1e-9))


def test_the_wrong_text_is_worse_than_none() -> None:
    plain, wrong = enter("rtn", "int3_g128"), enter("gptq", "int3_g128", calibrations.text("Python code"))
    loss, stderr = difference(wrong.quality, plain.quality)
    assert loss > 2 * stderr


def test_a_row_of_the_table() -> None:
    method, fmt, bits, kl, same = table_rows([enter("rtn", "int3_g128")])[0]
    assert (method, fmt, bits) == ("rtn", "int3_g128", "3.125")
    assert "±" in kl
    assert same.endswith("%")


def test_llama_cpp_runs_its_own_file() -> None:
    entry = enter_llama_cpp("q4_k_m")
    assert 4.5 < entry.bits_per_weight < 6
    assert 0 < entry.quality.kl_mean < 0.1


def test_llama_cpp_writes_the_same_blocks() -> None:
    same, of, count, *_ = same_as_llama_cpp("q4_k_m").split()
    assert same == count != "0"
    assert of == "of"


# ------------------------------------------------------------------------------------------- calibration texts
@pytest.mark.parametrize("kind", calibrations.KINDS)
def test_every_text_is_as_long_as_the_stories(kind: str) -> None:
    loaded = story_model().loaded
    right, other = windows(loaded, sixteen_stories()), windows(loaded, calibrations.text(kind))
    lengths = [len(window) - (kind == "no BOS") for window in right]
    assert [len(window) for window in other] == lengths
    begins = {window[0] == loaded.tokenizer.bos_token_id for window in other}
    assert begins == {kind != "no BOS"} or kind == "no BOS"


def test_what_is_in_them() -> None:
    loaded = story_model().loaded
    code = loaded.tokenizer.decode(windows(loaded, calibrations.text("Python code"))[0])
    assert "def " in code or "self." in code
    noise = windows(loaded, calibrations.text("random tokens"))
    assert len({token for window in noise for token in window}) > 1000
    assert len(calibrations.text("3 stories").texts) == 3
    for wrong in ("0 stories", "61 stories"):
        with pytest.raises(QuantlabError, match="there are 60 calibration stories"):
            calibrations.text(wrong)
    with pytest.raises(QuantlabError, match="did you mean 'stories'"):
        calibrations.text("storeis")


# ------------------------------------------------------------------------------------------- libraries
def test_the_table_of_differences_is_complete() -> None:
    headings, rows = differences()
    assert headings[1:] == tuple(DIFFERENCES) == tuple(SOURCES)
    assert len(rows) == len(QUESTIONS)
    assert all(len(answers) == len(QUESTIONS) for answers in DIFFERENCES.values())


def test_autoawq_chooses_among_our_candidates() -> None:
    model, name = story_model(), "model.layers.0.mlp.down_proj"
    W, X = model.layers[name][:64], torch.cat(model.inputs(name, 1))
    theirs = autoawq_scale(W, X)
    stats = LayerStats(len(X), X.T @ X, X.abs().mean(0), X.abs().amax(0))
    ours = list(candidates(W, stats, get("awq_int4_g128"), duo="no"))
    assert min(float((theirs / one - 1).abs().max()) for one in ours) < 1e-3


def test_the_libraries_are_silenced_for_this_process_and_no_longer(monkeypatch) -> None:
    monkeypatch.setenv("LLM_COMPRESSOR_LOG_LEVEL", "INFO")
    before = dict(os.environ)
    with quiet():
        assert os.environ["LLM_COMPRESSOR_LOG_LEVEL"] == "CRITICAL"
        assert "LLM_COMPRESSOR_LOG_DISABLED" not in os.environ  # llm-compressor 0.14's GPTQ fails with it
    assert dict(os.environ) == before


def test_the_defaults_that_the_table_names_are_the_libraries_own() -> None:
    with quiet():
        from awq.quantize.quantizer import AwqQuantizer
        from llmcompressor.modifiers.gptq import GPTQModifier
        from llmcompressor.sentinel import Sentinel

    assert inspect.signature(AwqQuantizer.__init__).parameters["apply_clip"].default is True
    assert GPTQModifier.model_fields["actorder"].default == Sentinel("static")


def test_recorded_rows_are_the_benchmarks_own() -> None:
    kept = json.loads(bundled("docs/benchmarks_methods.json").read_text(encoding="utf-8"))
    assert [(row.model, row.bits, row.method, row.kl) for row in recorded.rows()] == [
        (row["model"], row["bits"], row["method"], row["kl"]) for row in kept
    ]
    assert recorded.provenance().startswith("RECORDED on 20")
    assert "autoawq" in recorded.provenance()
    assert recorded.of("tiny", 4)["awq"].name == "awq (quantlab)"


# ------------------------------------------------------------------------------------------- the wrong group
def test_believed_as_stored_it_is_what_was_stored() -> None:
    model = story_model()
    right = model.quality({name: Q.dequantize() for name, Q in stored().items()})
    assert quality_if_believed(128).kl_mean == pytest.approx(right.kl_mean)
    assert what_the_verifier_says(128) == ""


@pytest.mark.parametrize("group", [256, 512])
def test_a_larger_group_is_noise_and_is_caught(group: int) -> None:
    assert quality_if_believed(group).kl_mean > 10 * quality_if_believed(128).kl_mean
    assert "group" in what_the_verifier_says(group)


def test_a_smaller_group_needs_scales_that_are_not_there() -> None:
    with pytest.raises(QuantlabError, match="has 4 scales a row, groups of 64 need 8"):
        quality_if_believed(64)
    assert "group" in what_the_verifier_says(64)


# ------------------------------------------------------------------------------------------- open exercises
def test_fewest_bits_stops_at_the_first_loss() -> None:
    assert fewest_bits(0.1, {6: 0.01, 5: 0.02, 4: 0.05, 3: 0.1, 2: 0.2}) == 3
    assert fewest_bits(0.03, {6: 0.01, 5: 0.04, 4: 0.02, 3: 0.01, 2: 0.2}) == 6
    assert fewest_bits(0.03, {6: 0.1, 5: 0.04, 4: 0.02, 3: 0.01, 2: 0.2}) is None


def test_a_layer_of_the_learners_own() -> None:
    g = torch.Generator().manual_seed(0)
    W, X = torch.randn(16, 96, generator=g), torch.randn(400, 8, generator=g) @ torch.randn(8, 96, generator=g)
    rounded, by_bits = output_errors(W, LayerStats(400, X.T @ X, X.abs().mean(0), X.abs().amax(0)))
    right = fewest_bits(rounded, by_bits)
    assert "GPTQ in" in own_layer.verdict({"layer": (W, X), "bits": right}).sentences[0]
    for layer, words in (
        ("model.layers.9.mlp.up_proj", "Unknown layer of the story model"),
        (W, "must be a name, or a pair"),
        ((W, X[:, :10]), r"finite numbers \[t, 96\]"),
        ((W[:, :50], X[:, :50]), "Rows of 50 weights do not divide"),
    ):
        verdict = own_layer.verdict({"layer": layer, "bits": 4})
        assert re.search(words, verdict.sentences[0]), verdict


def test_text_that_cannot_be_used_is_named() -> None:
    for texts, words in (([], "list of texts"), (["", "a"], "none of them empty"), (["x" * 300_000], "much text")):
        assert words in own_text.verdict({"texts": texts, "outcome": "worse"}).sentences[0]
    assert "is one of" in own_text.verdict({"texts": ["a b c"], "outcome": "great"}).sentences[0]
