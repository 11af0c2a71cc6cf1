"""What the claims of lesson 2 rest on: the measurements themselves, on the bundled model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quantlab.errors import UsageError
from quantlab.lesson.claims import check, claim
from quantlab.lesson.lesson2.accumulation import inside_one_output, through_the_layers
from quantlab.lesson.lesson2.story import difference, grid_of, relative_error, rounded, story_model


@pytest.mark.parametrize(
    ("claim_id", "figure"),
    [
        ("R1", "16 levels in each of 512 groups"),
        ("R2", "0.7230, error 0.1000; the levels beside 0.823 are 0.7230 and 1.0000; 0.8125 is 13/16"),
        ("R3", "its largest step is 3.82 times its smallest"),
        ("R8", "5 of 8 published results lose more than 5% perplexity"),
    ],
)
def test_figures_that_are_computed_or_cited(claim_id: str, figure: str) -> None:
    assert figure in str(check(claim_id).figure)


@pytest.mark.parametrize(
    ("claim_id", "words"),
    [
        ("R4", ("of independent errors", "of a straight sum", "±")),
        ("R5", ("as trained", "with outliers x 20")),
        ("R6", ("exact before rounding", "±")),
        ("R7", ("bytes either way", "±")),
    ],
)
def test_what_is_measured_says_how_sure_it_is(claim_id: str, words: tuple[str, ...]) -> None:
    answer = check(claim_id)
    assert all(word in str(answer.figure) for word in words)
    assert "±" in answer.how


@pytest.mark.parametrize(
    ("claim_id", "changed", "message"),
    [
        ("R1", {"bits": 4.5}, "bits must be a whole number from 2 to 8"),
        ("R1", {"bits": 64}, "bits must be a whole number from 2 to 8"),
        ("R1", {"layer": "model.layers.9.mlp.up_proj"}, "unknown layer of the story model"),
        ("R2", {"weight": 1.5}, "at most 1, the largest of its block"),
        ("R5", {"share": 0.9}, "share must be at most 0.5"),
        ("R6", {"small_scale": 0.5}, "scales must be above 1 and rise"),
        ("R7", {"fmt": "awq_int5"}, "unknown format 'awq_int5'"),
    ],
)
def test_absurd_inputs_of_lesson_2_are_refused(claim_id: str, changed: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, ValueError), match=message):
        check(claim_id, **changed)


def test_every_input_is_used() -> None:
    for number in range(1, 9):
        assert claim(f"R{number}").inputs


# ------------------------------------------------------------------------------------------- the measurements
def test_errors_accumulate_as_a_root_of_squares() -> None:
    total = through_the_layers(4, 128)
    assert len(total.alone) == 8
    assert total.of_independent[0] == pytest.approx(1, abs=0.1)
    assert total.straight == pytest.approx(sum(total.alone.values()), rel=1e-3)
    assert total.together < 0.5 * total.straight


def test_inside_one_output_the_signs_are_a_coins_toss() -> None:
    one = inside_one_output("model.layers.1.self_attn.k_proj", 4, 128)
    assert one.terms == 512
    assert one.of_straight[0] == pytest.approx(one.walk, rel=0.05)


def test_output_error_is_the_error_of_the_outputs() -> None:
    """trace(E H E') from the statistics equals what real inputs give."""
    model, name = story_model(), "model.layers.0.self_attn.v_proj"
    W = model.layers[name]
    W_hat = rounded(W, 3)
    X = torch.cat(model.inputs(name, 4))
    direct = float((X @ (W_hat - W).T).norm() / (X @ W.T).norm())
    assert model.output_error(name, W_hat) == pytest.approx(direct, rel=0.05)  # other stories


def test_the_statistics_are_of_the_inputs() -> None:
    model, name = story_model(), "model.layers.0.self_attn.v_proj"
    stats = model.stats[name]
    assert stats.n_tokens > 1000
    assert stats.x_absmean.shape == (512,)


def test_quality_leaves_the_model_as_it_was() -> None:
    model = story_model()
    before = {name: W.clone() for name, W in model.layers.items()}
    measured = model.quality(model.rounded(2))
    assert measured.kl_mean > 0.5
    assert all(torch.equal(before[name], W) for name, W in model.layers.items())
    gain, stderr = difference(measured, model.original)
    assert gain == pytest.approx(measured.kl_mean)
    assert stderr > 0


def test_relative_error_and_grid() -> None:
    assert relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(0.1)
    assert grid_of(3, 64, symmetric=False).bits == 3
