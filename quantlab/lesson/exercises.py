"""Exercises as data: a question, a starter, a solution, hints, and the wrong answers we know, each with its diagnosis.

The learner's object is passed in; nothing is read from their notebook's globals. The idea (attempt, hint, solution,
a diagnosis of each known mistake, all of it tested by the author) is that of Kaggle's learntools.

    from quantlab.lesson.lesson1 import exercises

    exercises.kv_cache                  # shows the question
    exercises.kv_cache.check(kv_kib)    # the learner's function, passed in
    exercises.kv_cache.hint()
    exercises.kv_cache.solution()

tests/unit/test_exercises.py proves for every exercise that the solution passes, that each known wrong answer fails
with its own diagnosis, and that the starter counts as not attempted.
"""

from __future__ import annotations

import inspect
import random
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantlab.lesson import judging, progress
from quantlab.lesson.message import Kind, Message

Judge = Callable[["Exercise", Any, random.Random], judging.Verdict]


@dataclass(frozen=True, repr=False)
class Exercise:
    """`answer` is the solution; `known_wrong` pairs wrong answers with keys of `diagnoses`; `judge` decides."""

    id: str
    title: str
    question: str  # Markdown
    starter: str  # the code of the notebook's cell, up to the check
    answer: Any
    hints: tuple[str, ...]
    known_wrong: tuple[tuple[Any, str], ...]
    diagnoses: Mapping[str, str]
    judge: Judge
    solution_code: str = ""  # where the source of `answer` does not show how it is found

    def check(self, answer: Any = ...) -> Message:
        """Judge the learner's answer and record the outcome."""
        verdict = self.verdict(answer)

        def change(entry: progress.Entry) -> None:
            if verdict.kind is Kind.NOT_ATTEMPTED:
                return
            entry["attempts"] = entry.get("attempts", 0) + 1
            passed_before = entry.get("outcome") == Kind.PASSED.name
            if verdict.kind is Kind.PASSED and not passed_before:
                entry["passed_at"] = progress.now()
            entry["outcome"] = Kind.PASSED.name if passed_before else verdict.kind.name

        note = progress.update("exercises", self.id, change)
        return Message(verdict.kind, self.title, (*verdict.sentences, *([note] if note else [])))

    def verdict(self, answer: Any, seed: int | None = None) -> judging.Verdict:
        """The judgement alone, with nothing recorded; `seed` fixes the random cases."""
        return self.judge(self, answer, judging.shuffled(seed))

    def hint(self, which: int | None = None) -> Message:
        """The next hint, or the one with this number, counted from 1."""
        seen = int(progress.entry("exercises", self.id).get("hints", 0))
        at = min(max(which if which is not None else seen + 1, 1), len(self.hints))
        progress.update("exercises", self.id, lambda entry: entry.update(hints=max(seen, at)))
        last = " There is no further hint: `solution()` shows one." if at == len(self.hints) else ""
        return Message(Kind.HINT, f"{at} of {len(self.hints)}", (self.hints[at - 1] + last,))

    def solution(self) -> Message:
        """One solution; the record tells whether it was read before the exercise was passed."""

        def change(entry: progress.Entry) -> None:
            if entry.get("outcome") != Kind.PASSED.name:
                entry["solution_seen"] = True

        progress.update("exercises", self.id, change)
        return Message(Kind.SOLUTION, self.title, code=self.solution_code or source(self.answer))

    def __repr__(self) -> str:
        return f"Exercise: {self.title}\n\n{self.question}"

    def _repr_markdown_(self) -> str:
        return f"**Exercise: {self.title}**\n\n{self.question}"


def source(thing: Any) -> str:
    """The code of a function as a learner would type it, without type hints, or a value."""
    if not callable(thing):
        return repr(thing)
    code = textwrap.dedent(inspect.getsource(thing)).rstrip()
    plain = f"def {thing.__name__}({', '.join(inspect.signature(thing).parameters)}):"
    return re.sub(rf"^def {thing.__name__}\(.*?\)( -> [^:]+)?:$", plain, code, count=1, flags=re.MULTILINE | re.DOTALL)


def judge_on_cases(cases: Callable[[random.Random], list[judging.Case]], tolerance: float = 1e-6) -> Judge:
    """The judge of an exercise whose answer is a function that returns a number."""

    def judge(exercise: Exercise, answer: Any, rng: random.Random) -> judging.Verdict:
        return judging.on_cases(
            answer, exercise.answer, cases(rng), exercise.known_wrong, exercise.diagnoses, tolerance
        )

    return judge
