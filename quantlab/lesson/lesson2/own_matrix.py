"""Open exercise: the error of rounding a matrix of the learner's own."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from quantlab.core import check_weights
from quantlab.errors import QuantlabError, unknown
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete, not_a_number
from quantlab.lesson.lesson2.story import rounded
from quantlab.lesson.message import Kind, number
from quantlab.models.bundled import tiny_folder

_KEYS = ("weights", "bits", "group", "error")
_SHARE = 0.005  # nobody needs to be more exact


def right_error(W: Tensor, bits: int, group: int) -> float:
    """Per cent: the root mean square of W_hat - W over that of W, symmetric levels."""
    return 100 * _rms(rounded(W, bits, group) - W) / _rms(W)


def wrong_errors(W: Tensor, bits: int, group: int) -> dict[str, float]:
    """What known mistakes lead to, for the same choice."""
    W_hat = rounded(W, bits, group)
    E = W_hat - W
    return {
        "fraction": _rms(E) / _rms(W),
        "not squared": 100 * float(E.abs().mean() / W.abs().mean()),
        "no root": 100 * (_rms(E) / _rms(W)) ** 2,
        "of the largest": 100 * _rms(E) / float(W.abs().max()),
        "largest error": 100 * float(E.abs().max()) / _rms(W),
        "absolute": _rms(E),
        "whole row": 100 * _rms(rounded(W, bits, None) - W) / _rms(W),
        "asymmetric": 100 * _rms(rounded(W, bits, group, symmetric=False) - W) / _rms(W),
        "one bit fewer": 100 * _rms(rounded(W, bits - 1, group) - W) / _rms(W) if bits > 2 else 0.0,
    }


def _rms(t: Tensor) -> float:
    return float(t.double().square().mean().sqrt())


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Compare the learner's figure with ours for the learner's own matrix."""
    if (verdict := incomplete(answer, _KEYS)) is not None:
        return verdict
    if reason := not_a_number(answer["error"]):
        return Verdict(Kind.WRONG, (f"`error` is {reason}",))
    try:
        W, bits, group = _weights(answer["weights"]), answer["bits"], answer["group"]
        right = right_error(W, _whole("bits", bits), _whole("group", group))
    except (QuantlabError, ValueError) as error:
        return Verdict(Kind.WRONG, (f"{str(error)[:1].upper()}{str(error)[1:]}.",))
    if _near(answer["error"], right):
        return Verdict(Kind.PASSED, (_praise(W, bits, group, right),))
    for key, value in wrong_errors(W, bits, group).items():
        if _near(answer["error"], value):
            return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)
    side = "too much" if answer["error"] > right else "too little"
    return Verdict(Kind.WRONG, (f"{number(answer['error'])} per cent is {side} for this matrix.",))


def _weights(given: Any) -> Tensor:
    """A layer's name, a tensor, or a list of rows."""
    if isinstance(given, str):
        return layer_weights(given)
    try:
        W = given.detach().float() if isinstance(given, Tensor) else torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError("`weights` must be a layer's name, a tensor, or a list of rows of equal length") from error
    check_weights(W)
    if not W.any():
        raise ValueError("`weights` are all zero: their error has nothing to be compared with; choose others")
    return W


@lru_cache(maxsize=4)
def layer_weights(name: str) -> Tensor:
    """A matrix of the bundled model, read from its file without loading the rest."""
    with safe_open(tiny_folder() / "model.safetensors", framework="pt") as file:
        names = [key.removesuffix(".weight") for key in file.keys() if "layers" in key and "norm" not in key]  # noqa: SIM118
        if name not in names:
            raise unknown("layer of the story model", name, names)
        return file.get_tensor(f"{name}.weight").float()


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a whole number above 0, it is {value!r}")
    return value


def _near(given: float, value: float) -> bool:
    return abs(given - value) <= _SHARE * abs(value)


def _praise(W: Tensor, bits: int, group: int, right: float) -> str:
    shape = " x ".join(map(str, W.shape))
    return f"{shape} weights in {bits} bits, groups of {group}: the error is {number(right)}% of the weights' size."


_CHOICE = ("model.layers.1.self_attn.k_proj", 4, 32)


def _mine(error: float) -> dict[str, Any]:
    layer, bits, group = _CHOICE
    return {"weights": layer, "bits": bits, "group": group, "error": error}


_STARTER = """\
mine = {
    "weights": "model.layers.1.self_attn.k_proj",  # a layer's name, a tensor of yours, or a list of rows
    "bits": 4,
    "group": 32,
    "error": ...,  # your number: per cent
}
"""

exercise = Exercise(
    id="lesson2-own-matrix",
    title="A matrix of your own",
    question=(
        "Choose a matrix: a layer of the story model by name, a tensor from a model of yours, or rows that you typed. "
        "Choose bits and group. How large is the error of rounding it to symmetric levels, in **per cent**: the root "
        "mean square of W_hat - W, divided by the root mean square of W? Use the function that you wrote, and put your "
        "number under `error`."
    ),
    starter=_STARTER,
    answer=_mine(right_error(layer_weights(_CHOICE[0]), *_CHOICE[1:])),
    hints=(
        "`W = dict(tiny.model.named_modules())[mine['weights']].weight.detach()` is the matrix of a layer by its name.",
        "The root mean square of a tensor `t` is `t.square().mean().sqrt()`.",
        "`E = round_in_groups(W, bits, group) - W`, then 100 times one root mean square over the other.",
    ),
    known_wrong=tuple(
        (_mine(value), key) for key, value in wrong_errors(layer_weights(_CHOICE[0]), *_CHOICE[1:]).items()
    ),
    diagnoses={
        "fraction": "That is the share; per cent are 100 times as many.",
        "not squared": "That is the mean of |error| over the mean of |w|. The root of the mean square is asked for.",
        "no root": "The root is missing: you divided the mean squares.",
        "of the largest": "You compared with the largest weight. Compare with the root mean square of all weights.",
        "largest error": "That is the largest error of all. The root mean square takes all of them in.",
        "absolute": "That is the error in the weights' own units. Divide by the root mean square of the weights.",
        "whole row": "That is the error with one scale a row. Each `group` neighbours have their own.",
        "asymmetric": "That is the error of asymmetric levels, with a zero point. Symmetric ones are asked for here.",
        "one bit fewer": "That is the error with one bit fewer: 2^bits levels, from -2^(bits-1) to 2^(bits-1) - 1.",
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  # your number: per cent", "0,")
    + """\

from quantlab.lesson.lesson2.own_matrix import right_error
from quantlab.lesson.lesson2.story import story_model

W = story_model().layers[mine["weights"]]
mine["error"] = right_error(W, mine["bits"], mine["group"])
""",
)
