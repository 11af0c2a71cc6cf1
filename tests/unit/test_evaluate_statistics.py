"""Error bars: the clustered standard error against its definition, and against what it is for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.evaluate.statistics import clustered_stderr, share_stderr


@given(st.lists(st.tuples(st.floats(-100, 100), st.integers(-3, 3)), min_size=4, max_size=60))
@settings(max_examples=60, deadline=None)
def test_it_is_the_formula(samples: list[tuple[float, int]]) -> None:
    """In plain Python, story by story."""
    x, cluster = [value for value, _ in samples], [story for _, story in samples]
    stories = set(cluster)
    if len(stories) < 2:
        return
    mean = sum(x) / len(x)
    sums = [sum(value - mean for value, story in samples if story == one) for one in stories]
    expected = math.sqrt(len(sums) / (len(sums) - 1) * sum(total**2 for total in sums)) / len(x)
    got = clustered_stderr(torch.tensor(x, dtype=torch.float64), torch.tensor(cluster))
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_sample_a_story_is_the_textbooks() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(1)).double()
    assert clustered_stderr(x, torch.arange(50)) == pytest.approx(x.std().item() / math.sqrt(50))


def test_it_covers_what_the_naive_error_misses() -> None:
    """Stories with moods of their own: in about 95% of 300 repetitions the mean lies within two clustered errors."""
    generator = torch.Generator().manual_seed(2)
    cluster = torch.arange(40).repeat_interleave(25)
    covered = naive = 0
    for _ in range(300):
        x = torch.randn(40, generator=generator)[cluster] + torch.randn(1000, generator=generator)
        covered += abs(x.mean().item()) < 1.96 * clustered_stderr(x, cluster)
        naive += abs(x.mean().item()) < 1.96 * clustered_stderr(x, torch.arange(1000))
    assert 0.90 < covered / 300 < 0.98
    assert naive / 300 < 0.6


def test_a_share_is_binomial() -> None:
    right = torch.tensor([True] * 45 + [False] * 15)
    assert share_stderr(right) == pytest.approx(math.sqrt(0.75 * 0.25 / 59))


@pytest.mark.parametrize(
    ("x", "cluster", "words"),
    [
        (torch.ones(5), torch.zeros(5), "at least 2 independent texts, got 1"),
        (torch.ones(0), torch.ones(0), "at least 2 independent texts, got 0"),
        (torch.ones(5), torch.ones(4), r"samples \[5\] and clusters \[4\]"),
        (torch.ones(2, 2), torch.ones(2, 2), "two lists"),
    ],
)
def test_no_error_bar_without_independent_samples(x: torch.Tensor, cluster: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        clustered_stderr(x, cluster)
