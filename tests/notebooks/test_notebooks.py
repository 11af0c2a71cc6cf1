"""Every committed notebook: it passes the check, and holds the starters of its lesson's exercises."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import notebook_rules as rules
import pytest

from quantlab.lesson import catalog

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.relative_to(ROOT) for folder in ("lessons", "labs") for path in (ROOT / folder).glob("*.ipynb"))
EXERCISES = [(lesson, name) for lesson in catalog.lessons() for name in catalog.exercises(lesson)]
PREDICTIONS = [(lesson, name) for lesson in catalog.lessons() for name in catalog.predictions(lesson)]


def test_there_are_lessons_and_labs() -> None:
    assert {path.parts[0] for path in NOTEBOOKS} == {"lessons", "labs"}


def test_every_text_has_a_notebook() -> None:
    texts = [path for folder in ("lessons", "labs") for path in (ROOT / folder / "text").glob("*.py")]
    assert [t for t in texts if not (t.parent.parent / f"{t.stem}.ipynb").exists()] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=str)
def test_it_passes_the_check(path: Path) -> None:
    assert rules.faults(ROOT / path) == []


def cells_of(folder: str, number: int) -> list[str]:
    (path,) = (ROOT / folder).glob(f"{number:02d}_*.ipynb")
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def statements(code: str) -> list[str]:
    """The code without comments and layout."""
    return [ast.dump(statement) for statement in ast.parse(code).body]


@pytest.mark.parametrize(("lesson", "name"), EXERCISES)
def test_the_lesson_holds_the_starter_and_the_check(lesson: int, name: str) -> None:
    cells = cells_of("lessons", lesson)
    starter = statements(catalog.exercises(lesson)[name].starter)
    begins = [cell for cell in cells if statements(cell)[: len(starter)] == starter]
    assert begins, f"no cell begins with the starter of {name}: {catalog.exercises(lesson)[name].starter}"
    assert any(f"exercises.{name}.check(" in cell for cell in cells)


@pytest.mark.parametrize(("lesson", "name"), PREDICTIONS)
def test_a_prediction_is_asked_before_it_is_revealed(lesson: int, name: str) -> None:
    """Its id says where: lesson1-..., or lab1-... for the lesson's lab."""
    place, _ = catalog.predictions(lesson)[name].id.split("-", 1)
    assert place in (f"lesson{lesson}", f"lab{lesson}")
    cells = "\n".join(cells_of("labs" if place.startswith("lab") else "lessons", lesson))
    asked, revealed = cells.find(f"ask(predictions.{name})"), cells.find(f"predictions.{name}.reveal(")
    assert 0 <= asked < revealed
