"""AWQ's scales against AutoAWQ's own search, live, on the same inputs of real layers.

AutoAWQ runs whole modules to judge a scale (attention with its softmax, the MLP with its gate); we judge it by the
outputs of the layers themselves. So it may choose another candidate, but never one with a smaller output error.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch
from layer_inputs import MODELS, folder_of, stats_of, tokens
from torch import Tensor, nn

from quantlab.core import Format
from quantlab.formats.catalog import get
from quantlab.methods.awq import awq_scale, candidates, clipped, scaled_error
from quantlab.methods.gptq import uniform_grid

# QUANTLAB_ALL_BLOCKS=1 does all of both models, which takes minutes
BLOCKS = {"tiny": 4, "smollm2": 30} if os.environ.get("QUANTLAB_ALL_BLOCKS") else {"tiny": 2, "smollm2": 1}
TOKENS, WINDOW = 256, 128
ATTENTION, MLP, DOWN = "self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"
READERS = {ATTENTION: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
           MLP: ["mlp.gate_proj", "mlp.up_proj"], DOWN: [DOWN]}  # fmt: skip
JUDGED_BY = {ATTENTION: "self_attn", MLP: "mlp", DOWN: DOWN}


@dataclass(frozen=True)
class Seen:
    """A decoder block, the inputs of its layers, and what its attention is called with."""

    block: nn.Module
    inputs: dict[str, Tensor]  # [windows, t, k]
    attention: dict[str, Any]


@cache
def blocks(model: str) -> list[Seen]:
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder_of(model), num_hidden_layers=BLOCKS[model], dtype=torch.float32
    )
    loaded.requires_grad_(False)
    found = [Seen(block, {}, {}) for block in loaded.model.layers]
    for seen in found:
        for name in READERS:
            layer = seen.block.get_submodule(name)
            layer.register_forward_pre_hook(lambda _, args, at=seen.inputs, name=name: at.update({name: args[0]}))
        seen.block.self_attn.register_forward_pre_hook(  # type: ignore[union-attr]
            lambda _, args, kwargs, at=seen.attention: at.update(kwargs), with_kwargs=True
        )
    loaded.model(tokens(model)[:TOKENS].reshape(-1, WINDOW), use_cache=False)
    for seen in found:
        seen.attention.pop("hidden_states")
    return found


def autoawq(bits: int, group: int, duo: bool) -> Any:
    """AutoAWQ's quantizer without its model: only what its searches look at."""
    from awq.quantize.quantizer import AwqQuantizer

    quantizer = AwqQuantizer.__new__(AwqQuantizer)
    quantizer.w_bit, quantizer.group_size, quantizer.zero_point, quantizer.duo_scaling = bits, group, True, duo
    quantizer.max_chunk_memory, quantizer.n_parallel_calib_samples = 2**30, None
    return quantizer


def their_scale(seen: Seen, name: str, group: int, duo: bool) -> tuple[Tensor, Tensor]:
    """`_search_best_scale` on this block's own inputs [k], and the weights [n, k] that it leaves behind."""
    block: Any = copy.deepcopy(seen.block)
    layers = [block.get_submodule(reader) for reader in READERS[name]]
    kwargs = dict(seen.attention) if name == ATTENTION else {}
    scale: Tensor = autoawq(4, group, duo)._search_best_scale(
        block, block.input_layernorm, layers, seen.inputs[name], block.get_submodule(JUDGED_BY[name]), kwargs
    )[2]
    return scale, torch.cat([layer.weight for layer in layers])


def weights(seen: Seen, name: str) -> Tensor:
    """All weights that read this input, one below the other [n, k]."""
    return torch.cat([seen.block.get_submodule(reader).weight for reader in READERS[name]])  # type: ignore[misc]


@pytest.mark.parametrize("model", MODELS)
def test_no_scale_of_autoawq_has_a_smaller_output_error(model: str) -> None:
    group = 128 if model == "tiny" else 64
    fmt = get(f"awq_int4_g{group}")
    for seen in blocks(model):
        for name in READERS:
            W, stats = weights(seen, name), stats_of(seen.inputs[name].flatten(0, 1))
            theirs, left = their_scale(seen, name, group, duo=False)
            assert torch.equal(left, W)
            assert closest(theirs, W, stats, fmt) < 1e-4  # theirs is one of the candidates
            ours = awq_scale([W], stats, fmt, relative=False)
            assert scaled_error(W, stats.H, fmt, ours) <= scaled_error(W, stats.H, fmt, theirs) * (1 + 1e-4)


def test_autoawq_with_duo_scaling_ruins_the_weights_on_a_cpu() -> None:
    """Why its default gives an unusable model there, and why only duo_scaling=False is compared.

    The copy it keeps to restore the weights is made with `.cpu()`, which on a CPU copies nothing, and the first
    candidate is multiplied in place. Without duo that candidate is 1. With it, the weights stay multiplied, and all
    other candidates are tried on top of it, so that the first one always wins.
    """
    seen = blocks("tiny")[0]
    W = weights(seen, MLP)
    theirs, left = their_scale(seen, MLP, 128, duo=True)
    first = next(islice(candidates(W, stats_of(seen.inputs[MLP].flatten(0, 1)), get("awq_int4_g128"), duo="yes"), 1, 2))
    assert torch.allclose(theirs, first, rtol=1e-4)
    assert torch.allclose(left, W * first, rtol=1e-4)
    assert (left / W - 1).abs().median() > 0.01


def closest(scale: Tensor, W: Tensor, stats: Any, fmt: Format) -> float:
    """The largest relative difference to the candidate that is nearest to this scale."""
    return min(float((candidate / scale - 1).abs().max()) for candidate in candidates(W, stats, fmt))


@pytest.mark.parametrize("model", MODELS)
def test_no_range_of_autoawq_has_a_smaller_output_error(model: str) -> None:
    """Its clip search on the same 256 tokens: the error over the groups' own outputs, summed over the layer."""
    group = 128 if model == "tiny" else 64
    fmt = get(f"int4_g{128}", group=group, symmetric=False)
    grid = uniform_grid(fmt)
    seen = blocks(model)[0]
    W: Tensor = seen.block.get_submodule(MLP).weight[:64].detach()  # type: ignore[index,union-attr]
    X = seen.inputs[MLP].flatten(0, 1)
    limit = autoawq(4, group, False)._compute_best_clip(W, X)  # [64, k/g, 1]
    theirs = W.reshape(64, -1, group).clamp(-limit, limit).flatten(1)
    p = clipped(W, X.T @ X, grid)
    errors = []
    for W_hat in (grid.decode(grid.encode(W, p), p), grid.decode(grid.encode(theirs, q := grid.fit(theirs)), q)):
        outputs = torch.einsum("tgi,ngi->tng", X.reshape(len(X), -1, group), (W_hat - W).reshape(64, -1, group))
        errors.append(float(outputs.square().sum()))
    assert errors[0] <= errors[1] * (1 + 1e-3)  # the range is AutoAWQ's but for groups without zero in it
