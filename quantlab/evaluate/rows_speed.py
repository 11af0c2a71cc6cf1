"""Speed for the rows of a comparison, and which of them to take: joins `speed` and `front` to the table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from quantlab.evaluate.front import Budget, Point, front, recommend
from quantlab.evaluate.names import BASELINE
from quantlab.evaluate.quality import Quality
from quantlab.evaluate.report import Row, Runs
from quantlab.evaluate.speed import GENERATE, PROMPT, Speed, bytes_read, measure_speed
from quantlab.evaluate.statistics import LEVEL, chance
from quantlab.plan.detect import copy_bandwidth


@dataclass
class Timed:
    """The GGUF files of a comparison, kept until all are there, so that they can take turns when they are timed."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)

    def keep(self, name: str, path: Path) -> None:
        """A second name of a file that is about to be removed."""
        kept = self.folder / f"timed-{len(self.files)}.gguf"
        os.link(path, kept)
        self.files[name] = kept

    def measured(
        self, rows: list[Row], report: Callable[[str], None], prompt: int = PROMPT, generate: int = GENERATE
    ) -> tuple[list[Row], Runs | None]:
        """The rows with the speed of those that llama.cpp runs, and how it was measured; None where it runs none."""
        if not self.files:
            return rows, None
        found = measure_speed(
            self.files, prompt=prompt, generate=generate,
            progress=lambda done, total: report(f"speed, run {done} of {total}"),
        )  # fmt: skip
        bandwidth = copy_bandwidth()
        one = next(iter(found.values()))
        unsteady = tuple(name for name, speed in found.items() if speed.unsteady)
        runs = Runs(one.prompt, one.generate, len(one.decode), one.threads, bandwidth, unsteady)
        return [_with(row, found.get(row.name), self.files.get(row.name), bandwidth) for row in rows], runs


def _with(row: Row, speed: Speed | None, path: Path | None, bandwidth: float) -> Row:
    if speed is None or path is None:
        return row
    return replace(
        row,
        prefill_tps=median(speed.prefill), prefill_range=(min(speed.prefill), max(speed.prefill)),
        decode_tps=median(speed.decode), decode_range=(min(speed.decode), max(speed.decode)),
        decode_predicted=bandwidth / bytes_read(path),
    )  # fmt: skip


def _decode(row: Row) -> tuple[float, float, float] | None:
    if row.decode_tps is None or row.decode_range is None:
        return None
    slowest, fastest = row.decode_range
    return slowest, row.decode_tps, fastest


def choose_from(rows: list[Row], found: Mapping[str, Quality], budget: Budget | None) -> tuple[tuple[str, ...], str]:
    """The names on the front, and what is recommended within the budget and why; the original does not compete."""
    points = [
        Point(row.name, row.nbytes, row.kl_mean, _decode(row))
        for row in rows
        if row.name != BASELINE and row.nbytes is not None and row.kl_mean is not None
    ]
    if not points:
        return (), ""

    def worse(a: str, b: str) -> bool:
        return chance(found[a].kl, found[b].kl, found[a].cluster) < LEVEL

    advice = recommend(points, budget, worse).why if budget is not None else ""
    return tuple(point.name for point in front(points, worse)), advice
