"""How an answer is judged: called on named and on random cases, compared with the solution, and, when it differs,
with every known wrong answer, so that a learner reads what they did and not only that it is wrong.

The random cases make sure that a constant, or a table of the named cases, does not pass.
"""

from __future__ import annotations

import copy
import inspect
import linecache
import math
import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

from quantlab.lesson.message import Kind, number

Known = Sequence[tuple[Any, str]]  # wrong answers, each with the key of its diagnosis


@dataclass(frozen=True)
class Case:
    """The arguments of one call and its right result; `name` is how the learner knows it ("llama-3-70b")."""

    name: str
    arguments: tuple[Any, ...]
    right: float


class Called(Protocol):
    """What `call` needs of a case."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def arguments(self) -> tuple[Any, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Verdict:
    """The status, the key of the diagnosis (if a known one fits), and the sentences to say."""

    kind: Kind
    sentences: tuple[str, ...] = ()
    diagnosis: str = ""


class Stopped(Exception):  # noqa: N818 (an answer that stops is not an error of ours)
    """The learner's code raised; the message is the sentence for the learner."""


class Untouched(Exception):  # noqa: N818
    """The learner's code is still the starter."""


def is_untouched(value: object) -> bool:
    """Whether this is what a starter leaves behind."""
    return value is None or value is Ellipsis or value is NotImplemented


NOT_YET = Verdict(Kind.NOT_ATTEMPTED, ("Replace the dots by your answer, then run the cell again.",))


def incomplete(answer: Any, keys: Sequence[str]) -> Verdict | None:
    """What to say of a dictionary `mine` that lacks some of these keys, or is none, or leaves the last one untouched.

    None when there is nothing to say, and it can be judged.
    """
    if is_untouched(answer):
        return NOT_YET
    missing = [key for key in keys if key not in answer] if isinstance(answer, Mapping) else []
    if isinstance(answer, Mapping) and not missing:
        return NOT_YET if is_untouched(answer[keys[-1]]) else None
    what = f"lacks {', '.join(missing)}" if missing else "is no dictionary"
    named = f"{', '.join(keys[:-1])} and {keys[-1]}"
    return Verdict(Kind.WRONG, (f"Pass the dictionary `mine` with {named}; this one {what}.",))


def on_cases(
    answer: Any, like: Callable[..., float], cases: Sequence[Case], known_wrong: Known,
    diagnoses: Mapping[str, str], tolerance: float = 1e-6,
) -> Verdict:  # fmt: skip
    """Judge a function that is called as `like` is and returns a number; `tolerance` is relative."""
    if is_untouched(answer):
        return NOT_YET
    if reason := cannot_call(answer, like):
        return Verdict(Kind.WRONG, (reason,))
    try:
        given = [call(answer, case) for case in cases]
    except Untouched:
        return NOT_YET
    except Stopped as stopped:
        return Verdict(Kind.ERROR, (str(stopped),))
    if all(is_untouched(value) for value in given):
        return Verdict(Kind.NOT_ATTEMPTED, ("It returns nothing yet: end it with `return` and your result.",))
    for case, value in zip(cases, given, strict=True):
        if reason := not_a_number(value):
            return Verdict(Kind.WRONG, (f"For {case.name} your function returns {reason}",))
    right = [case.right for case in cases]
    if agree(given, right, tolerance):
        return Verdict(Kind.PASSED, (f"All {len(cases)} cases agree, the random ones too.",))
    for wrong, key in known_wrong:
        if agree(given, [wrong(*case.arguments) for case in cases], tolerance):
            return Verdict(Kind.WRONG, (diagnoses[key],), key)
    return Verdict(Kind.WRONG, _difference(cases, given, right, tolerance))


def agree(given: Sequence[float], right: Sequence[float], tolerance: float) -> bool:
    """Whether every number is right within the relative tolerance."""
    return all(math.isclose(g, r, rel_tol=tolerance) for g, r in zip(given, right, strict=True))


def call(answer: Callable[..., Any], case: Called) -> Any:
    """The answer's result on a copy of the arguments; numbers of torch and NumPy become Python's."""
    try:
        value = answer(*copy.deepcopy(case.arguments))
    except NotImplementedError as error:
        raise Untouched from error
    except Exception as error:  # whatever a learner's code may raise
        raise Stopped(f"For {case.name} {_what_stopped(answer, error)}") from error
    if hasattr(value, "item") and not isinstance(value, Real):
        with suppress(ValueError, RuntimeError):  # an array of several numbers stays what it is
            return value.item()
    return value


def not_a_number(value: object) -> str:
    """What is wrong with a result that is not a finite number, or ''."""
    if is_untouched(value):
        return "nothing: every path through the function must end with `return` and the result."
    if isinstance(value, bool) or not isinstance(value, Real):
        return f"{_short(value)}, a {type(value).__name__}: a number is wanted."
    return "" if math.isfinite(value) else f"{value}: a finite number is wanted."


def cannot_call(answer: Any, like: Callable[..., Any]) -> str:
    """Why this cannot be called as `like` is, or ''."""
    wanted = f"`{like.__name__}{_plain(inspect.signature(like))}`"
    if not callable(answer):
        return f"Pass the function {wanted} itself, without calling it; this is {_short(answer)}."
    try:
        inspect.signature(answer).bind(*inspect.signature(like).parameters)
    except TypeError:
        return f"Your function takes {_plain(inspect.signature(answer))}; it is called as {wanted}."
    except ValueError:  # a builtin without a signature: calling it will tell
        pass
    return ""


def _plain(signature: inspect.Signature) -> str:
    return f"({', '.join(signature.parameters)})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _what_stopped(answer: Callable[..., Any], error: Exception) -> str:
    """`ZeroDivisionError in line 2, ...: division by zero`, the line being the learner's."""
    code = getattr(answer, "__code__", None)
    own = [f for f in traceback.extract_tb(error.__traceback__) if code is not None and f.filename == code.co_filename]
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if not own:
        return f"your code raised {what}."
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    return f"your code raised {what}, in line {own[-1].lineno}" + (f": `{line}`" if line else ".")


def _difference(
    cases: Sequence[Case], given: Sequence[float], right: Sequence[float], tolerance: float
) -> tuple[str, ...]:
    """An answer that is none of the known ones: where it differs, and by how much."""
    at = next(i for i in range(len(cases)) if not agree([given[i]], [right[i]], tolerance))
    name, ratio = cases[at].name, given[at] / right[at]
    if len(set(given)) == 1 and len(set(right)) > 1:
        return (f"Your function returns {number(given[0])} whatever it is given; it must use its arguments.",)
    same = all(math.isclose(g, ratio * r, rel_tol=tolerance) for g, r in zip(given, right, strict=True))
    by = f"{number(ratio)} times what it should be" if ratio > 0 else "below zero or zero"
    if same:
        return (f"Your result is {by} in every case: look for a factor.",)
    first = f"For {name} your function returns {number(given[at])}, which is {by}."
    if at and "random" in name:
        return (first, "The named cases are right: does your code hold a number that belongs to one of them?")
    return (first,)


def shuffled(seed: int | None) -> random.Random:
    """Random cases differ at each check; a test gives a seed."""
    return random.Random(seed)
