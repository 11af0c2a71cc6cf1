"""Model families as data: where the decoder blocks are, and which layers read the same input.

Two facts about a block are all that the calibrated methods need:

    readers   projections that share an input: one X'X serves them all, and one scale can be folded into them all
    maker     what makes that input. If it does so channel by channel, it can divide by a scale what its readers
              multiply by, and the model computes the same function (AWQ, eq. 4; SmoothQuant, eq. 3)

      input_layernorm -> q k v -> attention -> o      norm's weights     -> q k v
                                                      the rows of v      -> o       each query head mixes one value head
      post_..layernorm -> gate up -> act(gate) * up -> down
                                                      norm's weights     -> gate up
                                                      the rows of up     -> down    linear in up, not in gate

A new family is one entry of FAMILIES. Source: transformers 5.17, modeling_*.py of each family; the pairs are those of
AutoAWQ 0.2.9 (awq/models/*.py, `get_layers_for_scaling`). Left out: mixtures of experts, encoder models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import nn

from quantlab.errors import QuantlabError


class Made(Enum):
    """How an input is made, and so how its maker divides it by a scale."""

    NORM = "normalized, then times the norm's weight"
    NORM_PLUS_ONE = "normalized, then times one plus the norm's weight"
    VALUES = "attention's mix of values: the last rows of the maker, each value head read by several query heads"
    PRODUCT = "a gate times the last rows of the maker"


@dataclass(frozen=True)
class SharedInput:
    """Modules of a block that read the same input, and the one that makes it; no maker: nothing can absorb a scale."""

    readers: tuple[str, ...]
    maker: str = ""
    made: Made | None = None


@dataclass(frozen=True)
class Family:
    """Models that are built alike: their `model_type` in config.json, their blocks, the inputs of a block."""

    name: str
    model_types: tuple[str, ...]
    inputs: tuple[SharedInput, ...]
    blocks: str = r"model\.(language_model\.)?layers\.\d+"


@dataclass(frozen=True)
class Input:
    """An input of one block of a real model: the layers that read it, by their full names, and what makes it."""

    layers: dict[str, nn.Linear]
    maker_name: str
    maker: nn.Module | None
    made: Made | None
    head: int = 0  # channels of a value head
    sharing: int = 1  # query heads that read the same value head

    @property
    def name(self) -> str:
        """The full name of its first reader."""
        return next(iter(self.layers))

    @property
    def width(self) -> int:
        """k, its channels."""
        return next(iter(self.layers.values())).in_features


@dataclass(frozen=True)
class Block:
    """One decoder block of a real model."""

    index: int
    name: str
    module: nn.Module
    inputs: tuple[Input, ...]

    @property
    def layers(self) -> dict[str, nn.Linear]:
        """Full name -> linear layer, in the order in which they run."""
        return {name: layer for shared in self.inputs for name, layer in shared.layers.items()}


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
_O = SharedInput(("self_attn.o_proj",), "self_attn.v_proj", Made.VALUES)
_DOWN = SharedInput(("mlp.down_proj",), "mlp.up_proj", Made.PRODUCT)


def _gemma(before_mlp: str) -> tuple[SharedInput, ...]:
    attention = SharedInput(_QKV, "input_layernorm", Made.NORM_PLUS_ONE)
    return attention, _O, SharedInput(_GATE_UP, before_mlp, Made.NORM_PLUS_ONE), _DOWN


FAMILIES = (
    Family(
        "Llama, Mistral, Qwen",
        ("llama", "mistral", "qwen2", "qwen3"),
        (
            SharedInput(_QKV, "input_layernorm", Made.NORM),
            _O,
            SharedInput(_GATE_UP, "post_attention_layernorm", Made.NORM),
            _DOWN,
        ),
    ),
    Family("Gemma", ("gemma",), _gemma("post_attention_layernorm")),
    Family("Gemma 2 and 3", ("gemma2", "gemma3_text", "gemma3"), _gemma("pre_feedforward_layernorm")),
    Family(
        "Phi-3 and 4",  # q, k, v in one matrix, gate and up in another
        ("phi3",),
        (
            SharedInput(("self_attn.qkv_proj",), "input_layernorm", Made.NORM),
            SharedInput(("self_attn.o_proj",), "self_attn.qkv_proj", Made.VALUES),
            SharedInput(("mlp.gate_up_proj",), "post_attention_layernorm", Made.NORM),
            SharedInput(("mlp.down_proj",), "mlp.gate_up_proj", Made.PRODUCT),
        ),
    ),
    Family(
        "Phi-1 and 2",  # attention and MLP side by side after one norm; no gate, so nothing linear before fc2
        ("phi",),
        (
            SharedInput((*_QKV, "mlp.fc1"), "input_layernorm", Made.NORM),
            SharedInput(("self_attn.dense",), "self_attn.v_proj", Made.VALUES),
            SharedInput(("mlp.fc2",)),
        ),
    ),
)
BY_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}


def family_of(model: Any) -> Family:
    """The family of a transformers model; raises QuantlabError for one that is not in the table."""
    model_type = getattr(getattr(model, "config", None), "model_type", "unknown")
    if model_type not in BY_TYPE:
        raise QuantlabError(
            f"models of type {model_type!r} cannot be calibrated, their blocks are not described here; "
            f"known types are {', '.join(sorted(BY_TYPE))}"
        )
    return BY_TYPE[model_type]


def blocks(model: Any) -> tuple[Block, ...]:
    """The decoder blocks of a transformers model in the order in which they run.

    Raises QuantlabError for an unknown family, and for a block whose linear layers are not those of its family.
    """
    family, config = family_of(model), model.config.get_text_config()
    named = dict(model.named_modules())
    found = [name for name in named if re.fullmatch(family.blocks, name)]
    assert found, f"no block of {family.name} matches {family.blocks}"
    return tuple(_block(i, name, named, family, config) for i, name in enumerate(found))


def _block(index: int, name: str, named: dict[str, nn.Module], family: Family, config: Any) -> Block:
    inputs = tuple(_input(shared, name, named, config) for shared in family.inputs)
    expected = {layer for shared in inputs for layer in shared.layers}
    present = {inner for inner, module in named.items() if inner.startswith(f"{name}.") and _is_linear(module)}
    if odd := sorted(present ^ expected):
        raise QuantlabError(
            f"{odd[0]} is not as in other models of {family.name}; this model cannot be calibrated here"
        )
    return Block(index, name, named[name], inputs)


def _input(shared: SharedInput, block: str, named: dict[str, nn.Module], config: Any) -> Input:
    layers: dict[str, nn.Linear] = {}
    for reader in shared.readers:
        layer = named.get(f"{block}.{reader}")
        if not isinstance(layer, nn.Linear):
            raise QuantlabError(f"{block}.{reader} is no linear layer; quantize the original, unquantized model")
        layers[f"{block}.{reader}"] = layer
    maker = f"{block}.{shared.maker}" if shared.maker else ""
    heads = config.num_attention_heads
    head = next(iter(layers.values())).in_features // heads if shared.made is Made.VALUES else 0
    sharing = heads // (getattr(config, "num_key_value_heads", None) or heads) if head else 1
    return Input(layers, maker, named.get(maker) if maker else None, shared.made, head, sharing)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
