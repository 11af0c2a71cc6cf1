"""What a verification found: checks that passed, failed or could not be decided, for a reader and for machines.

A check has three answers, not two. Where the evidence does not suffice (a model of a family that is not described
here, random weights, whose order nothing betrays) the honest answer is "cannot tell", and it is no fault.

Faults that are alike are one sentence with a count: a wrong group size is wrong in every layer, and nobody reads it two
hundred times.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from quantlab.errors import QuantlabError

if TYPE_CHECKING:
    from rich.table import Table

# the families of checks, the most telling first: what is wrong with a file explains what is wrong with its scales
FAMILIES = (
    "files", "headers", "index", "config", "settings", "shapes", "types", "scales", "codes", "order", "values",
    "tokenizer", "template", "manifest",
)  # fmt: skip
MOST = 5  # sentences of one family; more of them say nothing new
_MARK = {True: "ok", False: "FAULT", None: "cannot tell"}


@dataclass(frozen=True)
class Check:
    """One question and its answer: `passed` is None where it cannot be decided; `what` is a sentence."""

    name: str
    passed: bool | None
    what: str


@dataclass(frozen=True)
class Verified:
    """What is known of a checkpoint. kind: awq, gptq, compressed-tensors, bitsandbytes, plain, gguf, or unknown."""

    path: Path
    kind: str
    quick: bool
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """A sentence for each fault, the most telling first."""
        return tuple(check.what for check in self.checks if check.passed is False)

    @property
    def fault(self) -> str | None:
        """The most telling fault."""
        return self.faults[0] if self.faults else None

    def require(self) -> Self:
        """This, where all is well; raises QuantlabError with the first fault."""
        if self.fault is not None:
            raise QuantlabError(self.fault)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain Python: path, kind, quick, ok, checks."""
        checks = [{"name": check.name, "passed": check.passed, "what": check.what} for check in self.checks]
        return {"path": str(self.path), "kind": self.kind, "quick": self.quick, "ok": self.ok, "checks": checks}

    def to_json(self) -> str:
        """`to_dict` as text; what a file's name holds beyond UTF-8 is escaped."""
        return json.dumps(self.to_dict(), indent=1)

    def table(self) -> Table:
        """One line a check."""
        from rich.table import Table
        from rich.text import Text

        looked = ", headers only" if self.quick else ""
        table = Table(
            title=Text(printable(f"{self.path.name or self.path}: {self.kind}{looked}")), title_justify="left"
        )
        for column in ("check", "", "what"):
            table.add_column(column, overflow="fold")
        colour = {True: "green", False: "red", None: "yellow"}
        for check in self.checks:
            table.add_row(check.name, Text(_MARK[check.passed], style=colour[check.passed]), Text(check.what))
        return table


class Findings:
    """Where the checks write what they find."""

    def __init__(self) -> None:
        self._faults: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self._unsure: dict[str, list[str]] = defaultdict(list)
        self._well: dict[str, str] = {}

    def fault(self, name: str, sentence: str, alike: str = "") -> None:
        """Something is wrong. alike: what it shares with others, of which the first is told and the rest counted."""
        self._faults[name][alike or sentence].append(sentence)

    def unsure(self, name: str, sentence: str) -> None:
        """Something could not be decided."""
        if sentence not in self._unsure[name]:
            self._unsure[name].append(sentence)

    def well(self, name: str, sentence: str) -> None:
        """What this family of checks established, unless it found a fault."""
        self._well[name] = sentence

    def failed(self, *names: str) -> bool:
        """Whether one of these families found a fault."""
        return any(self._faults[name] for name in names)

    def checks(self) -> tuple[Check, ...]:
        """Everything that was found, family by family."""
        found = [check for name in FAMILIES for check in self._of(name)]
        return tuple(Check(check.name, check.passed, printable(check.what)) for check in found)

    def _of(self, name: str) -> list[Check]:
        alike = list(self._faults[name].values())
        found = [Check(name, False, sentences[0] + _more(len(sentences) - 1)) for sentences in alike[:MOST]]
        if rest := sum(map(len, alike[MOST:])):
            found[-1] = Check(name, False, f"{found[-1].what} ({rest:,} other faults of this family are not shown)")
        found += [Check(name, None, sentence) for sentence in self._unsure[name][:MOST]]
        if name in self._well and not alike:
            found.append(Check(name, True, self._well[name]))
        return found


def _more(count: int) -> str:
    return f" ({count:,} more like this)" if count else ""


def printable(text: str) -> str:
    r"""A sentence as a terminal can show it: the names in it come from strangers' files.

    >>> print(printable("a tensor\x1b[2J"))
    a tensor\x1b[2J
    """
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
