"""Every exercise and prediction of the course: lesson N's are in the package `lessonN`, found by its name."""

from __future__ import annotations

import importlib
import pkgutil
import re

import quantlab.lesson
from quantlab.lesson.exercises import Exercise
from quantlab.lesson.predictions import Prediction


def lessons() -> list[int]:
    """The numbers of the lessons that have exercises.

    >>> 1 in lessons()
    True
    """
    names = (module.name for module in pkgutil.iter_modules(quantlab.lesson.__path__))
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"lesson(\d+)", name)))


def exercises(lesson: int) -> dict[str, Exercise]:
    """The exercises of a lesson by name."""
    return {name: item for name, item in _contents(lesson, "exercises").items() if isinstance(item, Exercise)}


def predictions(lesson: int) -> dict[str, Prediction]:
    """The predictions of a lesson by name."""
    return {name: item for name, item in _contents(lesson, "predictions").items() if isinstance(item, Prediction)}


def _contents(lesson: int, module: str) -> dict[str, object]:
    return vars(importlib.import_module(f"quantlab.lesson.lesson{lesson}.{module}"))
