"""Data as YAML 1.2 with a comment at its head: what the deployment files need, and no more.

Strings are written in JSON's quotes, which YAML reads as they are, and texts of several lines as `|` blocks; so no
`no`, `1e3` or `12:30` is read as something else. The tests read every file back with PyYAML.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any


def document(data: Mapping[str, Any], comment: str) -> str:
    """The whole file.

    >>> print(document({"a": 1, "b": ["x", {"c": True, "d": None}]}, "a comment"), end="")
    # a comment
    a: 1
    b:
      - "x"
      - c: true
        d: null
    """
    return "\n".join([*remark(comment), *_lines(data)]) + "\n"


def remark(comment: str) -> list[str]:
    """A comment's lines, each after a hash; a long one of plain text is broken."""
    lines = [part for line in comment.strip().splitlines() for part in _broken(line)]
    return [f"# {line}".rstrip() for line in lines]


def _broken(line: str) -> list[str]:
    return textwrap.wrap(line, 118) if len(line) > 118 and not line.startswith(" ") else [line]


def _lines(value: Any) -> Iterator[str]:
    """The lines of a mapping or a list, from the left margin."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str) and "\n" in inner:
                yield f"{key}: |"
                yield from (f"  {line}".rstrip() for line in inner.rstrip("\n").split("\n"))
            elif isinstance(inner, Mapping | list) and inner:
                yield f"{key}:"
                yield from (f"  {line}" for line in _lines(inner))
            else:
                yield f"{key}: {json.dumps(inner)}"
    else:
        for inner in value:
            first, *others = _lines(inner) if isinstance(inner, Mapping | list) and inner else [json.dumps(inner)]
            yield f"- {first}"
            yield from (f"  {line}" for line in others)
