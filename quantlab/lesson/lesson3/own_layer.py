"""Open exercise: what GPTQ saves on a layer of the learner's own, told in bits.

Rounding to nearest in 4 bits leaves the outputs of a layer so far off. With how few bits is GPTQ no worse?
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from quantlab.core import LayerStats, check_weights
from quantlab.errors import QuantlabError, unknown
from quantlab.formats.catalog import get
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging import Verdict, incomplete
from quantlab.lesson.lesson2.story import story_model
from quantlab.lesson.message import Kind
from quantlab.methods.gptq import gptq

ROUNDED, WIDTHS = 4, (6, 5, 4, 3, 2)
GROUPS = (128, 64, 32)  # the first that divides the rows is taken


def output_errors(W: Tensor, stats: LayerStats) -> tuple[float, dict[int, float]]:
    """Relative output error of rounding W [n, k] to nearest in 4 bits, and of GPTQ in each width."""
    group = next((g for g in GROUPS if W.shape[1] % g == 0), None)
    if group is None:
        raise ValueError(f"rows of {W.shape[1]} weights do not divide into groups of {GROUPS[-1]}; take another layer")
    H, W = stats.H.float(), W.float()

    def error(W_hat: Tensor) -> float:
        E = W_hat - W
        return float((((E @ H) * E).sum() / ((W @ H) * W).sum()).sqrt())

    fmts = {bits: get("int4_g128", bits=bits, group=group) for bits in WIDTHS}
    by_bits = {bits: error(gptq(W, stats, fmt).dequantize()) for bits, fmt in fmts.items()}
    return error(fmts[ROUNDED].quantize(W).dequantize()), by_bits


@lru_cache(maxsize=32)
def of_story_model(layer: str) -> tuple[float, dict[int, float]]:
    """The same for a layer of the story model and eight calibration stories."""
    model = story_model()
    if layer not in model.layers:
        raise unknown("layer of the story model", layer, model.layers)
    return output_errors(model.layers[layer], model.stats[layer])


def fewest_bits(rounded: float, by_bits: Mapping[int, float]) -> int | None:
    """Going down from 6 bits, the last width with which GPTQ is no worse; None when it is worse at 6."""
    kept = [*takewhile(lambda bits: by_bits[bits] <= rounded, WIDTHS)]
    return kept[-1] if kept else None


def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
    """Compare with what the layer's outputs say."""
    if (verdict := incomplete(answer, ("layer", "bits"))) is not None:
        return verdict
    bits = answer["bits"]
    if isinstance(bits, bool) or bits not in WIDTHS:
        return Verdict(Kind.WRONG, (exercise.diagnoses["no width"],), "no width")
    try:
        rounded, by_bits = _errors(answer["layer"])
    except (QuantlabError, ValueError) as error:
        return Verdict(Kind.WRONG, (f"{str(error)[:1].upper()}{str(error)[1:]}.",))
    right = fewest_bits(rounded, by_bits)
    if right is None:
        return Verdict(Kind.WRONG, ("On this layer GPTQ is worse with 6 bits already: a rare one. Choose another.",))
    if bits == right:
        return Verdict(Kind.PASSED, (_praise(right, rounded, by_bits),))
    key = "not the fewest" if bits > right else "worse"
    return Verdict(Kind.WRONG, (exercise.diagnoses[key],), key)


def _errors(layer: Any) -> tuple[float, dict[int, float]]:
    """A layer's name, or a pair of weights [n, k] and inputs [t, k]."""
    if isinstance(layer, str):
        return of_story_model(layer)
    try:
        W, X = (torch.as_tensor(part).detach().float() for part in layer)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError("`layer` must be a name, or a pair (weights [n, k], inputs [t, k])") from error
    check_weights(W)
    if X.ndim != 2 or X.shape[1] != W.shape[1] or not torch.isfinite(X).all() or not X.any():
        raise ValueError(f"the inputs must be finite numbers [t, {W.shape[1]}], not all zero; they are {list(X.shape)}")
    return output_errors(W, LayerStats(len(X), X.T @ X, X.abs().mean(0), X.abs().amax(0)))


def _praise(right: int, rounded: float, by_bits: Mapping[int, float]) -> str:
    return (
        f"Rounding in {ROUNDED} bits leaves an output error of {rounded:.2%}, GPTQ in {right} bits one of "
        f"{by_bits[right]:.2%}."
    )


def _mine(bits: int) -> dict[str, Any]:
    return {"layer": "model.layers.0.self_attn.o_proj", "bits": bits}


_STARTER = """\
mine = {
    "layer": "model.layers.0.self_attn.o_proj",  # a name, or (weights [n, k], inputs [t, k]) of yours
    "bits": ...,  # your number: 6, 5, 4, 3 or 2
}
"""

exercise = Exercise(
    id="lesson3-own-layer",
    title="A layer of your own",
    question=(
        "Choose a layer: one of the story model by name, or the weights [n, k] and some inputs [t, k] of a layer of "
        "your own model. Rounded to nearest in 4 bits (symmetric, groups of 128) its outputs are so far off. Go down "
        "from 6 bits: what is the last width with which **GPTQ** is no farther off? Put it under `bits`."
    ),
    starter=_STARTER,
    answer=_mine(3),
    hints=(
        "`gptq(W, stats, get('int4_g128', bits=3))` from `quantlab.methods.gptq` and `quantlab.formats.catalog`.",
        "The output error of `W_hat` is the root of tr(E H E'): `model.output_error(name, W_hat)` for the story model.",
        "First round with `get('int4_g128').quantize(W)`, then GPTQ with 6, 5, 4, 3, 2 bits while it is no worse.",
    ),
    known_wrong=(
        (_mine(4), "not the fewest"),
        (_mine(2), "worse"),
        (_mine(16), "no width"),
    ),
    diagnoses={
        "not the fewest": "True, GPTQ is no worse there. It is no worse with fewer bits too: go on down.",
        "worse": "With so few bits GPTQ's outputs are farther off than those of rounding in 4 bits.",
        "no width": "`bits` is one of 6, 5, 4, 3, 2: a width that GPTQ is tried with.",
    },
    judge=judge,
    solution_code=_STARTER.replace("...,  # your number", "0,  # your number")
    + """\

from quantlab.lesson.lesson3.own_layer import fewest_bits, of_story_model

mine["bits"] = fewest_bits(*of_story_model(mine["layer"]))
""",
)
