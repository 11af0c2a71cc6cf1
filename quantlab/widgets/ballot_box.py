"""Two texts side by side and three buttons; whose they are is said when all votes are in."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets

from quantlab.evaluate.ballot import Ballot, Vote
from quantlab.widgets.view import show

BUTTONS = {Vote.LEFT: "Left is better", Vote.NEITHER: "No difference", Vote.RIGHT: "Right is better"}


class BallotBox:
    """The widgets of one ballot; `box` is what is shown. The buttons are reached by Tab and pressed by Enter."""

    def __init__(self, ballot: Ballot) -> None:
        self.ballot = ballot
        self.prompt, self.verdict = widgets.HTML(), widgets.HTML()
        column = widgets.Layout(width="50%", padding="0 1em 0 0")
        self.texts = (widgets.HTML(layout=column), widgets.HTML(layout=column))
        self.buttons = {vote: widgets.Button(description=words) for vote, words in BUTTONS.items()}
        for vote, button in self.buttons.items():
            button.on_click(lambda _, vote=vote: self._vote(vote))
        row = widgets.HBox(list(self.buttons.values()))
        self.box = widgets.VBox([self.prompt, widgets.HBox(list(self.texts)), row, self.verdict])
        self._ask()

    def _vote(self, vote: Vote) -> None:
        if not self.ballot.done:
            self.ballot.vote(vote)
            self._ask()

    def _ask(self) -> None:
        if self.ballot.done:
            for button in self.buttons.values():
                button.disabled = True
            self.verdict.value = f"<strong>{html.escape(str(self.ballot.reveal()))}</strong>"
            return
        prompt, *texts = self.ballot.question()
        self.prompt.value = f"<em>{self.ballot.at + 1} of {self.ballot.total}.</em> {html.escape(prompt)}"
        for place, side, text in zip(self.texts, ("Left", "Right"), texts, strict=True):
            place.value = f"<strong>{side}</strong><p>{html.escape(text)}</p>"

    def _ipython_display_(self) -> None:
        show(
            self.box, f"**A blind vote** on {self.ballot.total} pairs of texts: without a live notebook, vote by code."
        )

    def __repr__(self) -> str:
        return repr(self.ballot)


def vote_on(ballot: Ballot) -> Any:
    """Ask for votes; the last line of a cell shows it."""
    return BallotBox(ballot)
