"""Every figure in docs/speed_and_cost.md is what the planner computes today."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "speed_and_cost.md"


def test_the_page_computes_its_figures() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert found.attempted > 15
    assert found.failed == 0
