"""Do rounding errors add up? Inside one output, and through the layers of the story model.

    straight sum        all errors of one sign:       sum |e_i|
    independent         signs by chance:              sqrt(sum e_i^2)          the random walk
    together            what is really there

Each half of a block (attention, MLP) is rounded alone, then all of them at once, and the last hidden state is compared
with the unrounded model's. Error bars: over stories, each of which is one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.func import functional_call

from quantlab.evaluate.statistics import clustered_stderr
from quantlab.lesson.lesson2.story import StoryModel, rounded, story_model

STORIES = 4


@dataclass(frozen=True)
class Accumulated:
    """Sizes of the error of the last hidden state, relative to the state itself; a mean over stories."""

    alone: Mapping[str, float]  # by half block
    together: float
    straight: float
    independent: float
    of_straight: tuple[float, float]  # together / straight, and its standard error
    of_independent: tuple[float, float]


@lru_cache(maxsize=8)
def through_the_layers(bits: int, group: int) -> Accumulated:
    """Round each half block alone, then all together."""
    model = story_model()
    whole = model.rounded(bits, group)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, W in whole.items():
        block, half = name.split(".")[2:4]
        halves.setdefault(f"block {block}, {'attention' if half == 'self_attn' else 'MLP'}", {})[name] = W
    still = _last_states(model, {})
    errors = torch.stack(
        [_off(_last_states(model, weights), still) for weights in halves.values()]
    )  # [halves, stories]
    together, straight, independent = _off(_last_states(model, whole), still), errors.sum(0), errors.norm(dim=0)
    alone = dict(zip(halves, errors.mean(1).tolist(), strict=True))
    means = (together.mean().item(), straight.mean().item(), independent.mean().item())
    return Accumulated(alone, *means, _mean(together / straight), _mean(together / independent))


@dataclass(frozen=True)
class Cancelled:
    """The error of single outputs of one layer: what is there, and what the straight sum of its terms would be."""

    terms: int  # products that are added up
    of_straight: tuple[float, float]  # and its standard error
    walk: float  # the same for independent signs


@lru_cache(maxsize=8)
def inside_one_output(layer: str, bits: int, group: int) -> Cancelled:
    """|sum of e_k x_k| against sum of |e_k x_k|, over all outputs and the tokens of some stories."""
    model = story_model()
    W = model.layers[layer]
    E, shares, walks = rounded(W, bits, group) - W, [], []
    for X in model.inputs(layer, STORIES):
        straight = X.abs() @ E.abs().T  # [t, n]
        shares.append(((X @ E.T).square().mean() / straight.square().mean()).sqrt())
        walks.append(((X.square() @ E.square().T).mean() / straight.square().mean()).sqrt())
    return Cancelled(W.shape[1], _mean(torch.stack(shares)), torch.stack(walks).mean().item())


def _last_states(model: StoryModel, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The last hidden state [t, hidden] of each story."""
    parameters = {f"{name}.weight": W for name, W in weights.items()}
    found = []
    with torch.inference_mode():
        for window in model.baseline.text.windows[:STORIES]:
            options = {"input_ids": torch.tensor([window.tokens]), "use_cache": False, "output_hidden_states": True}
            found.append(functional_call(model.loaded.model, parameters, (), options).hidden_states[-1][0])
    return found


def _off(states: list[Tensor], still: list[Tensor]) -> Tensor:
    """Relative size of the change of each story's states [stories]."""
    return torch.stack([(a - b).norm() / b.norm() for a, b in zip(states, still, strict=True)])


def _mean(values: Tensor) -> tuple[float, float]:
    return values.mean().item(), clustered_stderr(values, torch.arange(len(values)))
