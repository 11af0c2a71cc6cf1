"""Exercise: one step of GPTQ's sweep. The check compares with equations 2 and 3 of the paper."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from quantlab.lesson.exercises import Exercise
from quantlab.lesson.judging_tensors import TensorCase, judge_on_tensors
from quantlab.lesson.lesson2.draws import normal
from quantlab.lesson.lesson2.story import rounded


def step(W: Tensor, R: Tensor, j: int, w_hat: Tensor) -> Tensor:
    """W [n, k] once column j is w_hat [n]: the columns behind it answer, those before it stay."""
    W = W.clone()
    error = (W[:, j] - w_hat) / R[j, j]
    W[:, j] = w_hat
    W[:, j + 1 :] -= error[:, None] * R[j, j + 1 :]
    return W


def _moved(W: Tensor, R: Tensor, j: int, w_hat: Tensor, by: float, put: bool = True) -> Tensor:
    """A step whose answer is `by` times the difference of column j."""
    V = W.clone()
    V[:, j + 1 :] -= by * (W[:, j] - w_hat)[:, None] * R[j, j + 1 :]
    if put:
        V[:, j] = w_hat
    return V


def _not_divided(W: Tensor, R: Tensor, j: int, w_hat: Tensor) -> Tensor:
    return _moved(W, R, j, w_hat, 1)


def _divided_twice(W: Tensor, R: Tensor, j: int, w_hat: Tensor) -> Tensor:
    return _moved(W, R, j, w_hat, float(R[j, j]) ** -2)


def _sign(W: Tensor, R: Tensor, j: int, w_hat: Tensor) -> Tensor:
    return _moved(W, R, j, w_hat, -1 / float(R[j, j]))


def _not_put(W: Tensor, R: Tensor, j: int, w_hat: Tensor) -> Tensor:
    return _moved(W, R, j, w_hat, 1 / float(R[j, j]), put=False)


def _nothing_moved(W: Tensor, R: Tensor, j: int, w_hat: Tensor) -> Tensor:
    return _moved(W, R, j, w_hat, 0)


def _down_the_column(W: Tensor, R: Tensor, j: int, w_hat: Tensor) -> Tensor:
    return W - ((W[:, j] - w_hat) / R[j, j])[:, None] * R[:, j]


def cases(rng: random.Random) -> list[TensorCase]:
    """Inputs that say much the same, so that the later columns can answer; H of a size that makes R_jj 3, not 1."""
    found = []
    for at in range(4):
        k = rng.choice((24, 32, 48))
        X = normal(rng, 4 * k, k) + normal(rng, 4 * k, 6) @ normal(rng, 6, k) * 15
        R = torch.linalg.cholesky(torch.linalg.inv((X.T @ X).double()), upper=True).float()
        W, j = normal(rng, 16, k), rng.randrange(k // 4, k // 2)
        R *= 3 / R[j, j]
        w_hat = rounded(W[:, j : j + 1].T.contiguous(), 2, group=16)[0]
        found.append(TensorCase(f"a random layer ({at + 1})", (W, R, j, w_hat), step(W, R, j, w_hat)))
    return found


exercise = Exercise(
    id="lesson3-gptq-step",
    title="One step of the sweep",
    question=(
        "Column `j` of `W` [n, k] has been rounded to `w_hat` [n]. `R` [k, k] is the upper triangular factor of the "
        "inverse of H, as above. Write `step(W, R, j, w_hat)`: the matrix after this step. Column j becomes `w_hat`; "
        "the columns **behind** it move to make up for the error, e = (w_j - w_hat) / R_jj for each row, then "
        "W_after -= e R_j,after; the columns before it are done and stay. Do not change the `W` that you were given."
    ),
    starter='''\
def step(W, R, j, w_hat):
    """W [n, k] once column j is w_hat [n]: the columns behind it answer, those before it stay."""
    ...
''',
    answer=step,
    hints=(
        "`error = (W[:, j] - w_hat) / R[j, j]` has one number for each row of W, [n].",
        "`R[j, j + 1:]` are the k - j - 1 numbers of row j behind the diagonal.",
        "`error[:, None] * R[j, j + 1:]` is [n, k - j - 1]: what to take off the columns behind j.",
    ),
    known_wrong=(
        (_not_divided, "not divided"),
        (_divided_twice, "divided twice"),
        (_sign, "sign"),
        (_not_put, "not put"),
        (_nothing_moved, "nothing moved"),
        (_down_the_column, "down the column"),
    ),
    diagnoses={
        "not divided": "The answer has the wrong size: divide the difference by R_jj before you multiply by row j.",
        "divided twice": "You divided by R_jj twice. Once: e = (w_j - w_hat) / R_jj, then e times row j of R.",
        "sign": "The later columns move the wrong way, and double the error. Take the product off, do not add it.",
        "not put": "The later columns are right, but column j is still what it was: it must become `w_hat`.",
        "nothing moved": "Column j is rounded and no other answers: round to nearest. Move the columns behind it.",
        "down the column": (
            "You took column j of R; that moves the columns before j, which are rounded already. Take row j, behind "
            "the diagonal."
        ),
    },
    judge=judge_on_tensors(cases, "the columns move as GPTQ's equations 2 and 3 say"),
)
