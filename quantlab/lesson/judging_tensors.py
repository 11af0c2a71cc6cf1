"""How an answer is judged that returns many numbers: a function from tensors (or bytes) to a tensor.

The same steps as in `judging`, with the differences that tensors have: a wrong shape is named before any number, one
value in 100 may fall on the other side of a tie (w / s and w * (1 / s) round differently there), and an answer that is
none of the known ones is shown the first place where it differs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from quantlab.lesson import judging
from quantlab.lesson.judging import NOT_YET, Known, Stopped, Untouched, Verdict, is_untouched
from quantlab.lesson.message import Kind, number

if TYPE_CHECKING:
    from quantlab.lesson.exercises import Exercise

TIES = 1 / 100  # share of values that may differ
CLOSE = 2e-3  # of the largest value: a scale stored in 16 bits is right too


@dataclass(frozen=True)
class TensorCase:
    """The arguments of one call and its right result."""

    name: str
    arguments: tuple[Any, ...]
    right: Tensor

    def agrees(self, given: Tensor) -> bool:
        """Whether all values but a tie or two are right."""
        return self._wrong(given).float().mean().item() <= TIES

    def _wrong(self, given: Tensor) -> Tensor:
        right = self.right.double()
        return (given - right).abs() > CLOSE * right.abs().max()

    def first_difference(self, given: Tensor) -> str:
        """How many values differ, and the first of them."""
        wrong = self._wrong(given)
        at = tuple(int(i) for i in wrong.nonzero()[0])
        yours, wanted = (number(t[at].item()) for t in (given, self.right.double()))
        where = ", ".join(map(str, at))
        count = f"{int(wrong.sum())} of {wrong.numel()} values differ"
        return f"For {self.name}, {count}; at [{where}] yours is {yours}, wanted is {wanted}."


def judge_on_tensors(
    cases: Callable[[random.Random], list[TensorCase]], praise: str
) -> Callable[[Exercise, Any, random.Random], Verdict]:
    """The judge of an exercise whose answer is a function that returns a tensor; `praise` says what it equals."""

    def judge(exercise: Exercise, answer: Any, rng: random.Random) -> Verdict:
        return on_tensors(answer, exercise.answer, cases(rng), exercise.known_wrong, exercise.diagnoses, praise)

    return judge


def on_tensors(
    answer: Any, like: Callable[..., Any], cases: Sequence[TensorCase], known_wrong: Known,
    diagnoses: Mapping[str, str], praise: str,
) -> Verdict:  # fmt: skip
    """Judge a function that is called as `like` is and returns a tensor."""
    if is_untouched(answer):
        return NOT_YET
    if reason := judging.cannot_call(answer, like):
        return Verdict(Kind.WRONG, (reason,))
    try:
        values = [judging.call(answer, case) for case in cases]
    except Untouched:
        return NOT_YET
    except Stopped as stopped:
        return Verdict(Kind.ERROR, (str(stopped),))
    if all(is_untouched(value) for value in values):
        return Verdict(Kind.NOT_ATTEMPTED, ("It returns nothing yet: end it with `return` and your result.",))
    given: list[Tensor] = []
    for case, value in zip(cases, values, strict=True):
        if isinstance(tensor := _tensor(value, case.right), str):
            return Verdict(Kind.WRONG, (f"For {case.name} your function returns {tensor}",))
        given.append(tensor)
    if all(case.agrees(tensor) for case, tensor in zip(cases, given, strict=True)):
        return Verdict(Kind.PASSED, (f"All {len(cases)} cases agree: {praise}.",))
    for wrong, key in known_wrong:
        if _same(cases, given, wrong):
            return Verdict(Kind.WRONG, (diagnoses[key],), key)
    case, tensor = next(pair for pair in zip(cases, given, strict=True) if not pair[0].agrees(pair[1]))
    return Verdict(Kind.WRONG, (case.first_difference(tensor),))


def _same(cases: Sequence[TensorCase], given: Sequence[Tensor], wrong: Callable[..., Any]) -> bool:
    """Whether the answer does in every case what this known mistake does."""
    for case, tensor in zip(cases, given, strict=True):
        mistaken = _tensor(judging.call(wrong, case), case.right)
        if isinstance(mistaken, str) or not TensorCase(case.name, (), mistaken).agrees(tensor):
            return False
    return True


def _tensor(value: Any, like: Tensor) -> Tensor | str:
    """The value as a float64 tensor of the right shape, or what is wrong with it."""
    if is_untouched(value):
        return "nothing: every path through the function must end with `return` and the result."
    try:
        tensor = value.detach().double() if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return f"a {type(value).__name__}: a tensor is wanted."
    if tensor.shape != like.shape:
        return f"a tensor of shape {list(tensor.shape)}: {list(like.shape)} is wanted."
    if not torch.isfinite(tensor).all():
        return "values that are not finite: is something divided by zero?"
    return tensor
