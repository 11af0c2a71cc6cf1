"""Slots of an engine over time: when each computes a prompt, when it decodes, and when it stands empty."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from quantlab.plots import theme
from quantlab.plots.theme import Picture
from quantlab.serve.batching.simulate import Result

_PROMPT, _DECODE, _EMPTY = theme.ORANGE, theme.BLUE, theme.FAINT


def timeline(results: Mapping[str, Result], slots: int) -> Picture:
    """One strip of slots for each policy, all on the same axis of seconds; slots: how many each had."""
    end = max(result.seconds for result in results.values())
    with theme.style():
        picture = Picture(figsize=(10, 0.9 + len(results) * (0.5 + 0.16 * slots)), dpi=theme.DPI)
        axes = picture.subplots(len(results), 1, sharex=True, squeeze=False)[:, 0]
        for one, (name, result) in zip(axes, results.items(), strict=True):
            _strip(one, result, slots, end)
            one.set_title(_said(name, result, slots), size=9, weight="normal", loc="left", pad=3)
        axes[-1].set_xlabel("seconds")
        handles = [Patch(color=_PROMPT, label="a prompt"), Patch(color=_DECODE, label="decoding"),
                   Patch(color=_EMPTY, label="empty, or waiting")]  # fmt: skip
        picture.legend(handles=handles, loc="upper right", ncols=3, handletextpad=0.5)
        picture.subplots_adjust(
            left=0.06, right=0.985, top=1 - 0.55 / picture.get_figheight(), bottom=0.11, hspace=0.45
        )
        picture.words = timeline_words(results, slots)
    return picture


def timeline_words(results: Mapping[str, Result], slots: int) -> str:
    """What `timeline` shows, in words."""
    return f"{slots} slots over time, PREDICTED. " + " ".join(f"{_said(*pair, slots)}." for pair in results.items())


def _said(name: str, result: Result, slots: int) -> str:
    lost = f", {result.preemptions} preempted" if result.preemptions else ""
    speed = f"{result.tokens_per_s:,.0f} tokens/s"
    return f"{name}: {result.seconds:.3g} s, {speed}, slots busy {result.busy(slots):.0%}{lost}"


def _strip(axes: Axes, result: Result, slots: int, end: float) -> None:
    axes.barh(range(slots), end, height=0.8, color=_EMPTY)
    for slot in range(slots):
        for prompt, colour in ((True, _PROMPT), (False, _DECODE)):
            spans = [
                (step.start, step.end - step.start)
                for step in result.steps
                for _, at, _, of_prompt in step.work
                if at == slot and of_prompt == prompt
            ]
            axes.broken_barh(spans, (slot - 0.4, 0.8), color=colour, linewidth=0)
    axes.set(xlim=(0, end), ylim=(slots - 0.4, -0.6), yticks=[0, slots - 1], yticklabels=["1", str(slots)])
    axes.set_ylabel("slot")
    axes.grid(visible=False)
