"""A number box and a Lock button for a prediction; without a kernel, the question and how to lock by code."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets

from quantlab.lesson.message import Kind, Message
from quantlab.lesson.predictions import Prediction
from quantlab.widgets.view import show


class PredictionBox:
    """The widgets of one prediction; `box` is what is shown."""

    def __init__(self, prediction: Prediction) -> None:
        self.prediction = prediction
        self.number = widgets.Text(placeholder="your number", layout=widgets.Layout(width="12em"))
        self.button = widgets.Button(description="Lock", tooltip="Commit to this number; it cannot be changed later")
        self.answer = widgets.HTML()
        self.button.on_click(lambda _: self._lock())
        question = widgets.HTML(f"<strong>{html.escape(prediction.question)}</strong>")
        row = widgets.HBox([self.number, widgets.Label(prediction.unit), self.button])
        self.box = widgets.VBox([question, row, self.answer])
        if prediction.locked is not None:
            self._say(prediction.lock())

    def _lock(self) -> None:
        self._say(self.prediction.lock(typed(self.number.value)))

    def _say(self, message: Message) -> None:
        said, *more = message.sentences  # the question is above already
        self.answer.value = Message(message.kind, said, tuple(more))._repr_html_()
        self.number.disabled = self.button.disabled = message.kind is Kind.LOCKED

    def _ipython_display_(self) -> None:
        p = self.prediction
        show(self.box, f"**Your prediction?** {p.question} In {p.unit}; lock a number before you go on.")

    def __repr__(self) -> str:
        return repr(self.prediction)


def typed(text: str) -> float | str | None:
    """What was typed as a number, thousands separated or not; None when nothing was; else the text.

    >>> typed("40,000"), typed(" 4.5 "), typed(""), typed("many")
    (40000.0, 4.5, None, 'many')
    """
    try:
        return float(text.replace(",", "").replace("_", "")) if text.strip() else None
    except ValueError:
        return text


def ask(prediction: Prediction) -> Any:
    """Ask for a prediction; the last line of a cell shows it."""
    return PredictionBox(prediction)
