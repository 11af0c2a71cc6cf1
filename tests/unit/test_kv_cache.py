"""A KV cache in few bits: what attention reads is what was rounded, and more bits are nearer."""

from __future__ import annotations

import pytest
import torch

from quantlab.errors import QuantlabError
from quantlab.evaluate.kv_cache import BITS, RoundedCache, rounded_cache, rounder
from quantlab.evaluate.logits import Fork, TorchLogits
from quantlab.formats.catalog import get
from quantlab.models.load import load


@pytest.mark.parametrize("fmt", ["q8_0", "q4_0"])
def test_blocks_are_those_of_the_format(fmt: str) -> None:
    x = torch.randn(1, 2, 7, 64, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([get(fmt).quantize(head).dequantize() for head in x[0]])[None]
    assert torch.equal(rounder(fmt)(x), expected)


def test_fp8_is_torchs_cast_and_saturates() -> None:
    x = torch.tensor([[0.1, -3.3, 1000.0, -1000.0]])
    assert torch.equal(rounder("fp8_e4m3")(x), torch.tensor([[0.1015625, -3.25, 448.0, -448.0]]))


def test_the_cache_gives_back_what_it_stored_and_a_cache_that_rounds_nothing_changes_nothing() -> None:
    model, tokens = load("tiny").model, list(range(10, 60))
    (plain,) = TorchLogits(model)([tokens])
    (same,) = TorchLogits(model, cache=lambda: RoundedCache(lambda x: x))([tokens])
    assert torch.allclose(plain, same, atol=1e-4)
    off = []
    for fmt in ("q8_0", "fp8_e4m3", "q4_0"):
        (found,) = TorchLogits(model, cache=rounded_cache(fmt))([tokens])
        off.append(float((found - plain).abs().mean()))
    assert 0 < off[0] < off[1] < off[2]
    assert set(BITS) == {"fp8_e4m3", "q8_0", "q4_0"}


def test_a_fork_reads_the_rounded_cache_too() -> None:
    source = TorchLogits(load("tiny").model, cache=rounded_cache("q4_0"))
    start, end = tuple(range(10, 40)), tuple(range(50, 60))
    (whole,) = source([[*start, *end]])
    ((found,),) = source.forks([Fork(start, (end,))])
    assert torch.allclose(found, whole[len(start) - 1 : -1], atol=2e-3)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(QuantlabError, match="KV cache"):
        rounder("q3")
