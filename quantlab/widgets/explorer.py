"""The pattern of every explorer: a few controls, a pure function of their values, a picture that remembers the setting
before.

An `Explorer` holds plain values and knows nothing of notebooks, so tests drive it as a learner would. The function
returns a frozen result that can say itself in `words()` and show its arithmetic in `formula()`; the drawing takes that
result and the one before (the ghost). `quantlab.widgets.view` puts controls around it.

    explorer = memory_explorer()
    explorer                              # a live notebook: controls, picture, words
    explorer.move("batch", 16).words()    # the same by code
    explorer.static()                     # the picture alone; its `words` say what it shows
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from quantlab.errors import UsageError, unknown
from quantlab.plots.theme import Picture


@dataclass(frozen=True)
class Control:
    """One control: the argument it sets, its label, and its values in order; a slider, or else a list."""

    name: str
    label: str
    options: tuple[Any, ...]
    start: Any
    show: Callable[[Any], str] = str
    slider: bool = False

    def __post_init__(self) -> None:
        if self.start not in self.options:
            raise UsageError(f"{self.label}: {self.start!r} is not among {', '.join(map(str, self.options))}")


class Result(Protocol):
    """What the pure function returns."""

    def words(self) -> str:
        """The result in a sentence or two."""
        ...

    def formula(self) -> str:
        """The arithmetic with its numbers, one line a term."""
        ...


R = TypeVar("R", bound=Result)


class Explorer(Generic[R]):
    """Controls around a pure function; `draw(result, ghost)` makes the picture."""

    def __init__(
        self, controls: Sequence[Control], model: Callable[..., R], draw: Callable[[R, R | None], Picture]
    ) -> None:
        self.controls = tuple(controls)
        self.model = model
        self.draw = draw
        self.values: dict[str, Any] = {}
        self.ghost: R | None = None
        self._moving = ""  # the control in use: while it moves, the ghost stays where it began
        self.reset()
        gc.collect()
        gc.freeze()  # what is alive now will stay: a collection need not look at all of torch again

    def reset(self) -> R:
        """Back to the first setting, without a ghost."""
        self.values = {control.name: control.start for control in self.controls}
        self.ghost, self._moving = None, ""
        self.result = self.model(**self.values)
        return self.result

    def move(self, name: str, value: Any) -> R:
        """Set one control; the ghost is the setting before this control began to move."""
        control = next((control for control in self.controls if control.name == name), None)
        if control is None:
            raise unknown("control", name, self.values)
        if value not in control.options:
            raise UsageError(f"{control.label}: {value!r} is not among {', '.join(map(str, control.options))}")
        if value == self.values[name]:
            return self.result
        if name != self._moving:
            self.ghost, self._moving = self.result, name
        self.values = {**self.values, name: value}
        self.result = self.model(**self.values)
        return self.result

    def static(self) -> Picture:
        """The picture of the present setting, which knows its words.

        A picture is a knot of cycles. The last one is cleared away first, 5 ms each time: a dozen of them at once, when
        the collector finds the time for it, would hold up a move by 100 ms.
        """
        gc.collect()
        return self.draw(self.result, self.ghost)

    def __repr__(self) -> str:
        return self.result.words()

    def _ipython_display_(self) -> None:
        from quantlab.widgets.view import View, show

        show(View(self).box, self.static())
