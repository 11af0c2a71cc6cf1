"""The notebook check: a good notebook passes, and each rule fails on a notebook that breaks it."""

from __future__ import annotations

import copy
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import notebook_rules as rules
import notebooks as tool
import pytest

TEXT = """\
# %% [markdown]
# # A good notebook
#
# Plain words first.

# %%
from quantlab.lesson.lesson1 import exercises, predictions
from quantlab.plots import Need, memory_bars
from quantlab.widgets import ask, memory_explorer

# %%
ask(predictions.four_bit_file)

# %%
memory_explorer()

# %%
memory_bars([Need("a model", {"weights": 3.2})], {"T4": 14.6})

# %% tags=["nbval-check-output"]
exercises.kv_cache.check(None)
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook written as text, synced and run by the tool."""
    folder = tmp_path_factory.mktemp("lessons")
    (folder / "text").mkdir()
    (folder / "text" / "09_good.py").write_text(TEXT)
    path = folder / "09_good.ipynb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTLAB_STATE", "off")
        assert tool.main(["sync", "--from", "text", str(path)]) == 0
        assert tool.main(["run", str(path)]) == 0
    return path


@pytest.fixture
def book(good: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    shutil.copytree(good.parent, tmp_path / "lessons")
    return tmp_path / "lessons" / good.name


def test_a_good_notebook_has_no_fault(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rules.faults(good) == []
    assert tool.main(["check", str(good)]) == 0
    assert "1 notebooks checked, 0 faults" in capsys.readouterr().out


def test_run_writes_the_same_bytes_again(good: Path, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTLAB_STATE", "off")
    before = book.read_bytes()
    assert tool.main(["run", str(book)]) == 0
    assert book.read_bytes() == before == good.read_bytes()


def test_widgets_are_saved_as_picture_and_words(good: Path) -> None:
    node = nbformat.read(good, as_version=4)
    asked, explored, drawn = (cell.outputs for cell in node.cells[2:5])
    assert [list(output.data) for output in asked] == [["text/markdown", "text/plain"]]
    for outputs in (explored, drawn):
        picture, words = outputs
        assert list(picture.data) == ["image/png", "text/plain"]
        assert picture.metadata["image/png"]["alt"] == words.data["text/markdown"]
    assert "widgets" not in node.metadata


# ------------------------------------------------------------------------------------------- one break for each rule
def code(node: Any, at: int = 0) -> Any:
    return [cell for cell in node.cells if cell.cell_type == "code"][at]


def picture(node: Any) -> Any:
    return next(o for c in node.cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {}))


def add_output(node: Any, output: Any) -> None:
    code(node).outputs.append(output)


def stream(text: str, name: str = "stdout") -> Any:
    return nbformat.v4.new_output("stream", name=name, text=text)


def html(text: str) -> Any:
    return nbformat.v4.new_output("display_data", data={"text/html": text})


def set_source(at: int, source: str) -> Callable[[Any], None]:
    return lambda node: node.cells[at].__setitem__("source", source)


BREAKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "15 lines": (set_source(1, "x = 1\n" * 16), "16 lines; a cell has at most 15"),
    "15 lines of text": (set_source(0, "# A title\n" + "words\n" * 15), "16 lines; a cell has at most 15"),
    "an empty cell": (set_source(1, " \n"), "remove the empty cell"),
    "no title": (set_source(0, "## Not a title"), "0 headings of the first level"),
    "two titles": (set_source(0, "# One\n\n# Two"), "2 headings of the first level"),
    "a title too late": (
        lambda node: node.cells.insert(0, nbformat.v4.new_markdown_cell("before", id="early")),
        "the title must be in the first cell",
    ),
    "a picture without words": (lambda node: picture(node).metadata.clear(), "has no alternative text"),
    "a picture with empty words": (
        lambda node: picture(node).metadata.__setitem__("image/png", {"alt": " "}), "has no alternative text",
    ),
    "an image in Markdown": (set_source(0, "# T\n\n![](a.png)"), "write it between the brackets"),
    "an image in HTML": (lambda node: add_output(node, html('<img src="a.png">')), "give it alt="),
    "an image with empty alt": (set_source(0, "# T\n\n<img alt='' src='a.png'>"), "give it alt="),
    "too large": (lambda node: add_output(node, stream("x" * 1_000_000)), "stays below 1 MB"),
    "a token": (set_source(1, "login('hf_" + "a1B2" * 8 + "')"), "a Hugging Face token"),
    "a GitHub token": (lambda node: add_output(node, stream("ghp_" + "a1B2" * 9)), "a GitHub token"),
    "a key": (set_source(1, "key = 'sk-" + "a1B2" * 8 + "'"), "an API key"),
    "a password": (set_source(1, "get('https://me:secret@host/x')"), "a password in an address"),
    "a private key": (set_source(1, "-----BEGIN RSA PRIVATE KEY-----"), "a private key"),
    "a home folder": (lambda node: add_output(node, stream("/home/ada/.cache")), "a path of one machine"),
    "a folder of a Mac": (set_source(1, "open('/Users/ada/x')"), "a path of one machine"),
    "a temporary file": (lambda node: add_output(node, stream("/tmp/ipykernel_7/1.py")), "a path of one machine"),
    "the machine's name": (
        lambda node: add_output(node, stream(f"on {socket.gethostname()}.")), "a name of this machine",
    ),
    "an address": (lambda node: add_output(node, stream("<Thing at 0x7f12ab34cd56>")), "an address in memory"),
    "a hidden cell": (
        lambda node: code(node).metadata.__setitem__("jupyter", {"source_hidden": True}), "is hidden",
    ),
    "a hidden output": (lambda node: code(node).metadata.__setitem__("collapsed", True), "is hidden"),
    "a hiding tag": (lambda node: code(node).metadata.__setitem__("tags", ["hide-input"]), "is hidden"),
    "not executed": (lambda node: code(node, 1).__setitem__("execution_count", None), "not executed from top"),
    "out of order": (lambda node: code(node, 1).__setitem__("execution_count", 9), "not executed from top to bottom"),
    "no outputs": (
        lambda node: [c.__setitem__("outputs", []) for c in node.cells if c.cell_type == "code"], "it has no outputs",
    ),
    "an error": (
        lambda node: add_output(
            node, nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=["line"])
        ),
        "ends in KeyError",
    ),
    "a warning": (lambda node: add_output(node, stream("UserWarning: old", "stderr")), "writes to stderr (UserWarning"),
    "a live widget": (
        lambda node: picture(node).data.__setitem__(rules.WIDGET, {"model_id": "1"}), "a live widget is saved",
    ),
    "nothing compared": (
        lambda node: [c.metadata.pop("tags", None) for c in node.cells], "no cell has the tag nbval-check-output",
    ),
    "nothing to compare": (
        lambda node: code(node).metadata.__setitem__("tags", [rules.CHECKED]), "no output to compare",
    ),
    "a missing id": (lambda node: node.cells[1].pop("id"), "a cell has no id"),
    "two equal ids": (lambda node: node.cells[1].__setitem__("id", node.cells[0].id), "two have the same"),
    "an invalid cell": (lambda node: node.cells[1].__setitem__("widgets", 5), "not a valid notebook"),
    "an old format": (lambda node: node.__setitem__("nbformat_minor", 4), "older than 4.5"),
    "another kernel": (
        lambda node: node.metadata.kernelspec.__setitem__("name", "conda-env-x"), "must be named python3",
    ),
    "no kernel": (lambda node: node.metadata.pop("kernelspec"), "must be named python3"),
    "versions": (
        lambda node: node.metadata.language_info.__setitem__("version", "3.11.7"), "more than kernel and language",
    ),
    "a stale twin": (set_source(1, "x = 2"), "differs from its twin"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_notebook_is_told(book: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = BREAKS[name]
    node = nbformat.from_dict(nbformat.reader.reads(book.read_text()))
    damage(node)
    book.write_text(nbformat.v4.writes(node))
    found = rules.faults(book)
    assert any(words in fault for fault in found), found
    assert all("\n" not in fault for fault in found)
    assert tool.main(["check", str(book)]) == 1
    assert words in capsys.readouterr().out


def test_every_rule_is_broken_above() -> None:
    """A rule that no break exercises is a rule that may never fail."""
    unbroken = set(rules.RULES)
    told = " ".join(words for _, words in BREAKS.values())
    for rule, sign in {
        rules.well_formed: "a cell has no id", rules.python3_kernel: "python3", rules.short_cells: "at most 15",
        rules.one_title: "headings", rules.alt_text: "alternative text", rules.small: "1 MB",
        rules.no_secrets: "token", rules.nothing_hidden: "is hidden", rules.executed: "executed",
        rules.still_widgets: "widget", rules.figures_checked: "nbval", rules.twin_in_step: "twin",
    }.items():  # fmt: skip
        assert sign in told
        unbroken.remove(rule)
    assert not unbroken


def test_a_missing_twin_is_told(book: Path) -> None:
    (book.parent / "text" / "09_good.py").unlink()
    assert [fault for fault in rules.faults(book) if "has no twin" in fault]


def test_an_edited_twin_is_told(book: Path) -> None:
    twin = book.parent / "text" / "09_good.py"
    twin.write_text(twin.read_text().replace("Plain words", "Other words"))
    assert [fault for fault in rules.faults(book) if "differs from its twin" in fault]


@pytest.mark.parametrize("text", ["", "{", "[]", "not json", '{"cells": []}'])
def test_what_is_no_notebook_is_told(book: Path, text: str) -> None:
    book.write_text(text)
    (fault,) = rules.faults(book)
    assert fault.startswith("cannot be read as a notebook")


# ------------------------------------------------------------------------------------------- sync
def test_sync_from_text_keeps_outputs_and_ids_of_what_did_not_change(book: Path) -> None:
    before = nbformat.read(book, as_version=4)
    twin = book.parent / "text" / "09_good.py"
    twin.write_text(twin.read_text().replace("Plain words", "Other words") + "\n# %%\n1 + 1\n")
    assert tool.main(["sync", "--from", "text", str(twin)]) == 0
    after = nbformat.read(book, as_version=4)
    assert [c.id for c in after.cells[1:-1]] == [c.id for c in before.cells[1:]]
    assert [c.outputs for c in after.cells[1:-1]] == [c.outputs for c in before.cells[1:]]
    assert "Other words" in after.cells[0].source
    assert after.cells[-1].source == "1 + 1"
    assert after.cells[-1].outputs == []
    assert [fault for fault in rules.faults(book) if "not executed" in fault]


def test_sync_from_text_is_the_same_on_every_machine(good: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "text").mkdir(parents=True)
        (folder / "text" / "x.py").write_text(TEXT)
        assert tool.main(["sync", "--from", "text", str(folder / "x.ipynb")]) == 0
        made.append((folder / "x.ipynb").read_bytes())
    assert made[0] == made[1]


def test_a_formatter_may_add_blank_lines_between_cells(book: Path) -> None:
    twin = book.parent / "text" / "09_good.py"
    formatted = twin.read_text().replace("\n\n# %%", "\n\n\n# %%")
    twin.write_text(formatted)
    assert rules.faults(book) == []
    assert tool.main(["sync", str(book)]) == 0
    assert twin.read_text() == formatted
    before = book.read_bytes()
    assert tool.main(["sync", "--from", "text", str(book)]) == 0
    assert book.read_bytes() == before


def test_sync_from_the_notebook_writes_the_twin(book: Path) -> None:
    node = nbformat.read(book, as_version=4)
    node.cells[0].source = "# A new title"
    nbformat.write(node, book)
    assert tool.main(["sync", str(book)]) == 0
    assert "# # A new title" in (book.parent / "text" / "09_good.py").read_text()
    assert rules.faults(book) == []


def test_a_text_without_change_makes_the_same_notebook(good: Path, book: Path) -> None:
    assert tool.main(["sync", "--from", "text", str(book)]) == 0
    assert book.read_bytes() == good.read_bytes()


# ------------------------------------------------------------------------------------------- clear sentences
def test_a_cell_that_fails_stops_the_run_and_changes_nothing(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = nbformat.read(book, as_version=4)
    broken = copy.deepcopy(node)
    broken.cells[1].source = "1 / 0"
    nbformat.write(broken, book)
    before = book.read_bytes()
    assert tool.main(["run", str(book)]) == 1
    assert "stops with ZeroDivisionError: division by zero" in capsys.readouterr().err
    assert book.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["check", "README.md"], "is no notebook"), (["sync", "--from", "text", "no/such.ipynb"], "has no twin")],
)
def test_names_that_do_not_help(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(arguments) == 1
    assert words in capsys.readouterr().err


def test_a_notebook_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["check", str(tmp_path / "no.ipynb")]) == 1
    assert "does not exist" in capsys.readouterr().out
    assert tool.main(["run", str(tmp_path / "no.ipynb")]) == 1
    assert "no.ipynb" in capsys.readouterr().err
