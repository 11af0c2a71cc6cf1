"""Folding a scale leaves the function of the model as it was, in every family; undoing it leaves the bits."""

from __future__ import annotations

from typing import Any

import pytest
import random_families
import torch
from torch import Tensor

from quantlab.models.families import Input, Made, blocks
from quantlab.models.fold import fold, foldable, maker_scale, tied

IDS = torch.arange(3, 27).reshape(2, 12)
FAMILIES = list(random_families.CONFIGS)


def _inputs(model: Any) -> list[Input]:
    return [shared for block in blocks(model) for shared in block.inputs]


def _scale(shared: Input, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """From a tenth to ten, no two alike but where heads are shared."""
    exponent = torch.rand(shared.width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return tied(shared, 10 ** (2 * exponent - 1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_function_stays_the_same(model_type: str, dtype: torch.dtype) -> None:
    """Gemma's norms and rotary angles compute in float32 whatever the weights are: rounding, not 1e-12."""
    model = random_families.make(model_type).to(dtype)
    before = model(IDS, use_cache=False).logits
    changed = 0
    for seed, shared in enumerate(shared for shared in _inputs(model) if foldable(shared)):
        weights = {name: layer.weight.clone() for name, layer in shared.layers.items()}
        fold(shared, _scale(shared, seed, dtype))
        changed += sum(not torch.equal(weights[name], layer.weight) for name, layer in shared.layers.items())
    assert changed == sum(len(shared.layers) for shared in _inputs(model) if foldable(shared))
    after = model(IDS, use_cache=False).logits
    float32_inside = dtype == torch.float32 or model_type.startswith(("gemma", "llama", "mistral", "qwen", "phi3"))
    tolerance = 3e-5 if float32_inside else 1e-12
    assert (after - before).abs().max() <= tolerance * before.abs().max()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_undo_is_bit_for_bit(model_type: str) -> None:
    model = random_families.make(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    done = [fold(shared, _scale(shared, dtype=torch.float32)) for shared in _inputs(model) if foldable(shared)]
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    for folded in reversed(done):
        folded.undo()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_scale_on_the_wrong_side_would_be_seen(model_type: str) -> None:
    """The first test can fail: folding into the readers alone changes the function."""
    model = random_families.make(model_type)
    before = model(IDS, use_cache=False).logits
    for shared in _inputs(model):
        for layer in shared.layers.values():
            layer.weight.mul_(_scale(shared, dtype=torch.float32) if foldable(shared) else 1)
    assert (model(IDS, use_cache=False).logits - before).abs().max() > 1e-2 * before.abs().max()


def _of(model_type: str, made: Made) -> Input:
    return next(shared for shared in _inputs(random_families.make(model_type)) if shared.made is made)


def test_heads_that_share_values_get_one_scale() -> None:
    shared = _of("llama", Made.VALUES)  # 4 query heads of 8 channels read 2 value heads
    scale = torch.rand(32) + 0.5
    same = tied(shared, scale)
    heads = same.reshape(2, 2, 8)
    assert torch.equal(heads[:, 0], heads[:, 1])
    torch.testing.assert_close(heads[:, 0], scale.reshape(2, 2, 8).prod(1).sqrt())
    assert maker_scale(shared, same).tolist() == heads[:, 0].flatten().tolist()
    assert torch.equal(tied(_of("phi3", Made.PRODUCT), scale), scale)


def test_unequal_scales_for_a_shared_value_head_are_refused() -> None:
    shared = _of("llama", Made.VALUES)
    before = [parameter.clone() for parameter in shared.maker.parameters()]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="2 query heads share each value head before model"):
        fold(shared, torch.arange(1, 33).float())
    assert all(map(torch.equal, before, shared.maker.parameters()))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (torch.ones(31), r"needs a scale of shape \[32\], got \[31\]"),
        (torch.ones(1, 32), r"needs a scale of shape \[32\], got \[1, 32\]"),
        (torch.zeros(32), "must be finite and above zero"),
        (-torch.ones(32), "must be finite and above zero"),
        (torch.full((32,), torch.inf), "must be finite and above zero"),
        (torch.full((32,), torch.nan), "must be finite and above zero"),
    ],
)
def test_scales_that_make_no_sense(scale: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fold(_of("gemma", Made.NORM_PLUS_ONE), scale)


def test_an_input_that_nothing_can_scale() -> None:
    shared = _inputs(random_families.make("phi"))[-1]
    assert not foldable(shared)
    with pytest.raises(ValueError, match=r"nothing before model.layers.1.mlp.fc2 can absorb a scale"):
        fold(shared, torch.ones(48))
