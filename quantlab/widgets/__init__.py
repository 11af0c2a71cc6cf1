"""Explorers: a pure model and a view; without a live kernel, a static picture and words.

    explorer.py           the pattern: controls, a pure function of their values, the setting before as a ghost
    view.py               its controls and picture in a live notebook (ipywidgets)
    batching_explorer.py  lesson 5: slots over time, static, continuous and chunked batches
    front_explorer.py     lesson 4: a budget on measured files, the Pareto front, the choice
    levels_explorer.py    lesson 2: bits, group and kind of levels on a real matrix
    load_explorer.py      lesson 5: the load curve and its limits
    memory_explorer.py    lesson 1: weights, KV cache and overhead against GPUs
    noise_explorer.py     lesson 4: how many stories before a difference is one
    roofline_explorer.py  lesson 4: a format under the roof of a card, batch by batch
    salience_explorer.py  lesson 2: which 1% of a layer's columns to protect, and how
    scaling_explorer.py   lesson 3: AWQ's search for a scale
    super_block_explorer.py  lesson 3: a super-block of Q4_K, byte by byte
    sweep_explorer.py     lesson 3: GPTQ's sweep, column by column
    weight_explorer.py    lesson 2: one weight's code, scale, error and bytes in any format
    ballot_box.py         a blind vote on pairs of texts
    server_panel.py       lab 5: a running server's state, memory, log and figures; Refresh and Stop
    prediction_box.py     a number box and a Lock button for a prediction

A new explorer is one file: a frozen result, a pure function, a drawing, its controls.
"""

from quantlab.widgets.ballot_box import vote_on
from quantlab.widgets.batching_explorer import batching_explorer
from quantlab.widgets.explorer import Control, Explorer
from quantlab.widgets.front_explorer import front_explorer
from quantlab.widgets.levels_explorer import levels_explorer
from quantlab.widgets.load_explorer import load_explorer
from quantlab.widgets.memory_explorer import memory_explorer
from quantlab.widgets.noise_explorer import noise_explorer
from quantlab.widgets.prediction_box import ask
from quantlab.widgets.roofline_explorer import roofline_explorer
from quantlab.widgets.salience_explorer import salience_explorer
from quantlab.widgets.scaling_explorer import scaling_explorer
from quantlab.widgets.server_panel import server_panel
from quantlab.widgets.super_block_explorer import super_block_explorer
from quantlab.widgets.sweep_explorer import sweep_explorer
from quantlab.widgets.weight_explorer import weight_explorer

__all__ = [
    "Control",
    "Explorer",
    "ask",
    "batching_explorer",
    "front_explorer",
    "levels_explorer",
    "load_explorer",
    "memory_explorer",
    "noise_explorer",
    "roofline_explorer",
    "salience_explorer",
    "scaling_explorer",
    "server_panel",
    "super_block_explorer",
    "sweep_explorer",
    "vote_on",
    "weight_explorer",
]
