"""The table of model families against real models: what shares an input, and what makes it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import random_families
import torch
from torch import Tensor, nn

from quantlab.errors import QuantlabError
from quantlab.models.families import BY_TYPE, FAMILIES, Made, blocks, family_of
from quantlab.models.load import LoadedModel
from quantlab.models.walk import linear_layers

IDS = torch.arange(3, 15)[None]


def _inputs_seen(model: Any) -> dict[str, Tensor]:
    """What every linear layer really reads while the model runs."""
    seen: dict[str, Tensor] = {}

    def listen(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name] = args[0]

    hooks = [layer.register_forward_pre_hook(partial(listen, name)) for name, layer in linear_layers(model)]
    model(IDS, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("model_type", random_families.CONFIGS)
class TestEveryFamily:
    def test_the_blocks_hold_every_linear_layer_once(self, model_type: str) -> None:
        model = random_families.make(model_type)
        named = [name for block in blocks(model) for name in block.layers]
        assert sorted(named) == sorted(name for name, _ in linear_layers(model))
        assert [block.index for block in blocks(model)] == [0, 1]

    def test_layers_share_an_input_exactly_where_the_table_says_so(self, model_type: str) -> None:
        model = random_families.make(model_type)
        seen = _inputs_seen(model)
        shared = [shared for block in blocks(model) for shared in block.inputs]
        for one in shared:
            for name in one.layers:
                assert torch.equal(seen[name], seen[one.name])
                assert seen[name].shape[-1] == one.width
        firsts = [seen[one.name] for one in shared]
        for at, left in enumerate(firsts):
            assert not any(left.shape == right.shape and torch.equal(left, right) for right in firsts[:at])

    def test_inputs_are_listed_in_the_order_in_which_they_are_read(self, model_type: str) -> None:
        model = random_families.make(model_type)
        read = list(_inputs_seen(model))
        for block in blocks(model):
            firsts = [read.index(shared.name) for shared in block.inputs]
            assert firsts == sorted(firsts)


def test_only_phi_2_has_an_input_that_nothing_can_scale() -> None:
    without = [(family.name, shared.readers) for family in FAMILIES for shared in family.inputs if not shared.maker]
    assert without == [("Phi-1 and 2", ("mlp.fc2",))]
    assert all(bool(shared.maker) == (shared.made is not None) for family in FAMILIES for shared in family.inputs)


def test_query_heads_that_share_a_value_head() -> None:
    inputs = blocks(random_families.make("llama"))[0].inputs
    assert [(shared.head, shared.sharing) for shared in inputs] == [(0, 1), (8, 2), (0, 1), (0, 1)]
    assert inputs[1].made is Made.VALUES


def test_the_bundled_model(tiny: LoadedModel) -> None:
    assert family_of(tiny.model) is BY_TYPE["llama"]
    assert [block.name for block in blocks(tiny.model)] == [f"model.layers.{i}" for i in range(4)]


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(QuantlabError, match=r"'unknown' cannot be calibrated.*known types are gemma, "):
        blocks(nn.Linear(2, 2))


def test_a_block_with_another_linear_layer_is_refused() -> None:
    model = random_families.make("llama")
    model.model.layers[1].mlp.extra = nn.Linear(2, 2)
    with pytest.raises(QuantlabError, match=r"layers\.1\.mlp\.extra is not as in other models of Llama"):
        blocks(model)


def test_a_layer_that_is_no_longer_linear_is_refused() -> None:
    model = random_families.make("llama")
    model.model.layers[0].mlp.up_proj = nn.Identity()
    with pytest.raises(QuantlabError, match=r"layers\.0\.mlp\.up_proj is no linear layer; quantize the original"):
        blocks(model)
