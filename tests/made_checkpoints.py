"""Quantized checkpoints of the bundled model as each library makes them, made once a test run and shared.

    def test_something(workshop):
        made = workshop.make("autoawq")                       # Made: path, bits_per_weight, settings, ...
        read_checkpoint(made.path)

Calibrated on very little text: enough for the libraries to run, too little for their results to be good.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantlab.backends.quantizers.libraries import LIBRARIES
from quantlab.backends.quantizers.making import Text, quantize
from quantlab.backends.quantizers.offers import GGUF, Wish, choose
from quantlab.backends.quantizers.order import Made

EVERYTHING = os.environ.get("QUANTLAB_ALL_LIBRARIES") == "1"  # every case of tests/reference/test_backend_*.py
LITTLE = Text(None, window=64, samples=8)
LEAST = Text(None, window=32, samples=2)  # AutoAWQ's clip search takes time with every token


class Workshop:
    """Makes a checkpoint when it is first asked for. Read only for those who ask."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[Wish, Made] = {}

    def make(
        self,
        library: str,
        method: str | None = None,
        fmt: str | None = None,
        *,
        bits: int | None = None,
        group: int | None = None,
        symmetric: bool | None = None,
    ) -> Made:
        """What `quantlab quantize tiny --backend LIBRARY ...` makes; skips where its environment is not made."""
        wish = Wish(library, method, fmt, bits, group, symmetric)
        if wish not in self._made:
            needs_environment(library)
            choice = choose(wish)
            name = f"{len(self._made):03d}-{library}-{choice.offer.method}-{choice.format}"
            out = self._folder / (f"{name}.gguf" if choice.offer.family in GGUF else name)
            self._made[wish] = quantize("tiny", wish, out, calibration=little_text(library, choice.offer.text))
        return self._made[wish]


def little_text(library: str, calibrated: bool = True) -> Text:
    """As much text as a library needs to run."""
    return Text() if not calibrated else LEAST if library == "autoawq" else LITTLE


def needs_environment(library: str) -> None:
    """Skip a test whose library lives in an isolated environment that nobody has made: it would be gigabytes."""
    found = LIBRARIES[library]
    if found.environment and (problem := found.missing()):
        pytest.skip(problem)
