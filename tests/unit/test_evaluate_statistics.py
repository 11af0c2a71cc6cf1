"""Error bars: the clustered standard error against its definition, and against what it is for."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantlab.evaluate.statistics import FLIPS, chance, clustered_stderr, share_stderr


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


def test_chance_is_every_way_to_give_signs() -> None:
    """In plain Python; uneven stories, so that a wrong pairing shows."""
    generator = torch.Generator().manual_seed(3)
    story = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4])
    x, y = torch.randn(2, len(story), generator=generator).double()
    sums = [float((x - y)[story == one].sum()) for one in range(5)]
    ways = [
        abs(sum(sign * total for sign, total in zip(signs, sums, strict=True))) for signs in product((-1, 1), repeat=5)
    ]
    expected = sum(way >= abs(sum(sums)) - 1e-9 for way in ways) / len(ways)
    assert chance(x, y, story) == chance(y, x, story) == expected


def test_chance_cries_wolf_as_often_as_it_says() -> None:
    """Two equal models on 11 stories: p is below 5% in about 5% of 400 repetitions."""
    generator = torch.Generator().manual_seed(4)
    story = torch.arange(11).repeat_interleave(4)
    alarms = 0
    for _ in range(400):
        x, y = torch.randn(2, len(story), generator=generator) + torch.randn(11, generator=generator)[story]
        alarms += chance(x, y, story) < 0.05
    assert 0.02 < alarms / 400 < 0.09


def test_chance_is_never_zero_and_always_the_same() -> None:
    story = torch.arange(60)
    x = torch.rand(60, generator=torch.Generator().manual_seed(5))
    assert chance(x + 10, x, story) == chance(x + 10, x, story) == 1 / FLIPS
    assert chance(x, x, story) == 1
    assert chance(torch.ones(2), torch.zeros(2), torch.arange(2)) == 0.5, "two stories prove nothing"
