"""An explorer in a live notebook: its controls above its picture, the words beneath, the formula at one key press.

Every control is a native one (list, slider, button), so Tab, the arrow keys, Space and Enter work it. One output
carries the live widget and the static picture; a page without a kernel or without widgets shows the picture.
`tools/notebooks.py run` saves only picture and words.
"""

from __future__ import annotations

import base64
import html
from typing import Any

import ipywidgets as widgets

from quantlab.plots.theme import Picture
from quantlab.widgets.explorer import Control, Explorer

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
_LABEL = {"description_width": "7em"}


class View:
    """The widgets of one explorer; `box` is what is shown."""

    def __init__(self, explorer: Explorer[Any]) -> None:
        self.explorer = explorer
        self.controls = {control.name: _control(control, explorer) for control in explorer.controls}
        self.picture, self.words, self.formula = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.reset = widgets.Button(description="Reset", tooltip="Back to the first setting")
        self.formula_button = widgets.ToggleButton(description="Formula", tooltip="Show the arithmetic")
        self._resetting = False
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._moved(name, change["new"]), names="value")
        self.reset.on_click(lambda _: self._reset())
        self.formula_button.observe(lambda _: self._refresh(), names="value")
        buttons = widgets.HBox([self.reset, self.formula_button])
        self.box = widgets.VBox([*self.controls.values(), buttons, self.picture, self.words, self.formula])
        self._refresh()

    def _moved(self, name: str, value: Any) -> None:
        if not self._resetting:
            self.explorer.move(name, value)
            self._refresh()

    def _reset(self) -> None:
        self._resetting = True
        try:
            for name, value in ((control.name, control.start) for control in self.explorer.controls):
                self.controls[name].value = value
        finally:
            self._resetting = False
        self.explorer.reset()
        self._refresh()

    def _refresh(self) -> None:
        picture = self.explorer.static()
        self.picture.value = _image(picture)
        self.words.value = f'<p role="status" style="max-width:56em;line-height:1.5">{html.escape(picture.words)}</p>'
        arithmetic = (
            f'<pre style="white-space:pre-wrap;line-height:1.5">{html.escape(self.explorer.result.formula())}</pre>'
        )
        self.formula.value = arithmetic if self.formula_button.value else ""


def _control(control: Control, explorer: Explorer[Any]) -> widgets.Widget:
    kind = widgets.SelectionSlider if control.slider else widgets.Dropdown
    options = [(control.show(value), value) for value in control.options]
    width = widgets.Layout(width="34em", max_width="100%")
    return kind(
        options=options, value=explorer.values[control.name], description=control.label, style=_LABEL, layout=width
    )


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.svg()).decode()
    width = round(picture.get_figwidth() * 96)
    return (
        f'<img src="data:image/svg+xml;base64,{data}" alt="{html.escape(picture.words)}" '
        f'style="display:block;width:{width}px;max-width:100%;height:auto">'
    )


def show(widget: widgets.Widget, still: Picture | str) -> None:
    """Display a widget together with what stands for it where it cannot live: a picture, or words."""
    from IPython.display import display

    live = widget._repr_mimebundle_()[WIDGET_MIME]
    data, metadata = still.bundle() if isinstance(still, Picture) else ({"text/plain": still}, {})
    display({WIDGET_MIME: live, **data}, metadata=metadata, raw=True)
