"""What the course answers to a learner: a status in words, sentences, perhaps code. The same in HTML and in plain text.

Colour only repeats what the words say; a screen reader announces the message when it appears (`role="status"`).
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """A status: its words and the colour of its edge (Okabe and Ito's palette, readable on light and dark pages)."""

    PASSED = ("Correct", "#009E73")
    WRONG = ("Not yet", "#D55E00")
    ERROR = ("Your code stopped", "#D55E00")
    NOT_ATTEMPTED = ("Not attempted yet", "#7F8790")
    HINT = ("Hint", "#0072B2")
    SOLUTION = ("Solution", "#0072B2")
    LOCKED = ("Locked", "#0072B2")
    REVEAL = ("Prediction and measurement", "#CC79A7")
    NOTE = ("Note", "#7F8790")


@dataclass(frozen=True)
class Message:
    """`kind: title`, then one paragraph for each sentence, then code.

    >>> Message(Kind.PASSED, "The KV cache", ("9 of 9 cases agree.",))
    Correct: The KV cache
    9 of 9 cases agree.
    """

    kind: Kind
    title: str
    sentences: tuple[str, ...] = ()
    code: str = ""

    def __repr__(self) -> str:
        status = self.kind.value[0]
        return "\n".join([f"{status}: {self.title}", *self.sentences, *([self.code] if self.code else [])])

    def _repr_html_(self) -> str:
        status, colour = self.kind.value
        paragraphs = "".join(f'<p style="margin:.25em 0">{inline(text)}</p>' for text in self.sentences)
        pre = '<pre style="margin:.5em 0;white-space:pre;overflow-x:auto">'
        code = f"{pre}<code>{html.escape(self.code)}</code></pre>" if self.code else ""
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:.25em 0 .25em .9em;margin:.5em 0;'
            f'max-width:60em"><p style="margin:.25em 0"><strong>{status}: {inline(self.title)}</strong></p>'
            f"{paragraphs}{code}</div>"
        )


def inline(text: str) -> str:
    """Escaped HTML, in which `backticks` become code.

    >>> inline("`a` < b")
    '<code>a</code> &lt; b'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def number(value: float, unit: str = "") -> str:
    """A number as a person would write it: four significant digits, thousands separated.

    >>> number(141107.2), number(4.15625), number(0.000123), number(83522, "tokens")
    ('141,107', '4.156', '0.000123', '83,522 tokens')
    """
    if value == int(value) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) >= 0.001:
        text = f"{value:#.4g}".rstrip("0").rstrip(".")
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}" if unit else text
