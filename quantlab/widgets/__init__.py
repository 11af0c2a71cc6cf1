"""Explorers: a pure model and a view; without a live kernel, a static picture and words.

    explorer.py           the pattern: controls, a pure function of their values, the setting before as a ghost
    view.py               its controls and picture in a live notebook (ipywidgets)
    memory_explorer.py    lesson 1: weights, KV cache and overhead against GPUs
    prediction_box.py     a number box and a Lock button for a prediction

A new explorer is one file: a frozen result, a pure function, a drawing, its controls.
"""

from quantlab.widgets.explorer import Control, Explorer
from quantlab.widgets.memory_explorer import memory_explorer
from quantlab.widgets.prediction_box import ask

__all__ = ["Control", "Explorer", "ask", "memory_explorer"]
