"""What every committed notebook must be, one short function a rule; `tools/notebooks.py check` applies them all.

A rule takes a notebook and yields sentences, one for each fault, each naming the cell and what to do.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat

MAX_LINES = 15
MAX_BYTES = 1_000_000
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}
WIDGET = "application/vnd.jupyter.widget-view+json"
CHECKED = "nbval-check-output"

_HIDING_TAGS = {"hide-input", "hide-output", "hide-cell", "hide_input", "remove-input", "remove-output", "remove-cell"}
_SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "an AWS key": r"\bAKIA[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": r"\b\w+://[^\s/:@]+:[^\s/:@]+@",
    "a path of one machine": r"(?:/(?:home|Users|root|work|tmp|var/folders|content|mnt)/[\w.-]+|\b[A-Z]:\\\\?Users\b)",
    "an address in memory, which changes with every run": r"\bat 0x[0-9a-fA-F]{6,}",
}


@dataclass(frozen=True)
class Notebook:
    """A notebook file, parsed."""

    path: Path
    node: Any

    @classmethod
    def read(cls, path: Path) -> Notebook:
        """Parse without repairing: a missing id stays missing."""
        node = nbformat.from_dict(nbformat.reader.reads(path.read_text(encoding="utf-8")))
        if not isinstance(node.get("nbformat"), int) or "cells" not in node:
            raise ValueError("it lacks nbformat or cells")
        return cls(path, node)

    @property
    def twin(self) -> Path:
        """Its text twin: lessons/text/NAME.py for lessons/NAME.ipynb."""
        return self.path.parent / "text" / f"{self.path.stem}.py"

    def cells(self, kind: str = "") -> Iterator[tuple[str, Any]]:
        """(how to name it, cell) for every cell, or for those of a kind."""
        for at, cell in enumerate(self.node.cells, start=1):
            if kind in ("", cell.cell_type):
                first = next((line for line in cell.source.splitlines() if line.strip()), "empty")
                yield f"cell {at} ({first.strip()[:40]})", cell

    def outputs(self) -> Iterator[tuple[str, Any]]:
        """(how to name its cell, output) for every output."""
        for where, cell in self.cells("code"):
            for output in cell.outputs:
                yield where, output


def twin_text(node: Any) -> str:
    """The py:percent text of a notebook: sources and tags, without outputs and without the version of any tool."""
    copy = nbformat.from_dict(node)
    copy.metadata = nbformat.from_dict({"jupytext": {"notebook_metadata_filter": "-all"}})
    return str(jupytext.writes(copy, fmt="py:percent"))


def same_text(one: str, other: str) -> bool:
    """Whether two twins say the same; a formatter may put more blank lines between cells than jupytext does."""
    squeezed = (re.sub(r"\n{3,}", "\n\n", text).strip() for text in (one, other))
    return len(set(squeezed)) == 1


def well_formed(book: Notebook) -> Iterator[str]:
    """The notebook is valid, in format 4.5 or newer, and every cell has an id of its own."""
    if (book.node.nbformat, book.node.nbformat_minor) < (4, 5):
        yield "the file format is older than 4.5, which has no cell ids: open and save it in JupyterLab 4"
        return
    ids = [cell.get("id") for cell in book.node.cells]
    if None in ids or len(set(ids)) < len(ids):
        yield "a cell has no id, or two have the same: run `tools/notebooks.py run`"
    else:
        try:
            nbformat.validate(book.node)
        except nbformat.ValidationError as error:
            yield f"not a valid notebook: {error.message}"


def python3_kernel(book: Notebook) -> Iterator[str]:
    """The kernel is python3 and the metadata are the same on every machine."""
    if book.node.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel must be named python3, as on every learner's machine: run `tools/notebooks.py run`"
    elif book.node.metadata != {"kernelspec": KERNEL, "language_info": LANGUAGE}:
        yield "the metadata hold more than kernel and language: run `tools/notebooks.py run`"


def short_cells(book: Notebook) -> Iterator[str]:
    """At most 15 lines in a cell, blank ones not counted; no empty cell."""
    for where, cell in book.cells():
        lines = sum(bool(line.strip()) for line in cell.source.splitlines())
        if lines > MAX_LINES:
            yield f"{where}: {lines} lines; a cell has at most {MAX_LINES} and one idea: split it"
        if not lines:
            yield f"{where}: remove the empty cell"


def one_title(book: Notebook) -> Iterator[str]:
    """Exactly one heading of the first level, at the top."""
    found = []
    for where, cell in book.cells("markdown"):
        text = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.MULTILINE | re.DOTALL)
        found += [where] * len(re.findall(r"^# ", text, flags=re.MULTILINE))
    if len(found) != 1:
        yield f"{len(found)} headings of the first level (`# `); a notebook has one"
    elif not found[0].startswith("cell 1 "):
        yield f"{found[0]}: the title must be in the first cell"


def alt_text(book: Notebook) -> Iterator[str]:
    """Every picture says what it shows: in an output's metadata, in Markdown, or in HTML."""
    for where, output in book.outputs():
        for mime in output.get("data", {}):
            if mime.startswith("image/") and not output.metadata.get(mime, {}).get("alt", "").strip():
                yield f"{where}: its {mime} has no alternative text; show a quantlab.plots Picture, which carries it"
        yield from _bare_images(where, "".join(output.get("data", {}).get("text/html", "")))
    for where, cell in book.cells("markdown"):
        yield from _bare_images(where, cell.source)


def _bare_images(where: str, text: str) -> Iterator[str]:
    if re.search(r"!\[\s*\]\(", text):
        yield f"{where}: an image has no alternative text; write it between the brackets of ![...](...)"
    if any(not re.search(r"""alt=(["'])\s*[^"'\s]""", tag) for tag in re.findall(r"<img\b[^>]*>", text)):
        yield f'{where}: an <img> has no alternative text; give it alt="..."'


def small(book: Notebook) -> Iterator[str]:
    """Less than 1 MB, so that GitHub shows it and a diff stays possible."""
    size = book.path.stat().st_size
    if size >= MAX_BYTES:
        yield f"{size / 1e6:.1f} MB; a notebook stays below 1 MB: draw smaller pictures or print less"


def no_secrets(book: Notebook) -> Iterator[str]:
    """No token, no password, no name or path of the machine it ran on."""
    here = {str(Path.home()), socket.gethostname(), str(Path.cwd())} - {"/", "", "localhost"}
    patterns = {**_SECRETS, "a name of this machine": "|".join(rf"(?<![\w-]){re.escape(n)}(?![\w-])" for n in here)}
    texts = [(where, cell.source) for where, cell in book.cells()]
    texts += [(where, "\n".join(_texts(output))) for where, output in book.outputs()]
    for where, text in texts:
        for what, pattern in patterns.items():
            if found := re.search(pattern, text):
                yield f"{where}: holds {what} ({found[0][:12]}...); remove it and run the notebook again"


def _texts(output: Any) -> Iterator[str]:
    yield str(output.get("text", ""))
    yield "\n".join(output.get("traceback", []))
    for mime, data in output.get("data", {}).items():
        if not (mime.startswith("image/") and mime != "image/svg+xml"):
            yield re.sub(r"data:image/[\w+]+;base64,[\w+/=]+", "", str(data))


def nothing_hidden(book: Notebook) -> Iterator[str]:
    """No hidden cell and no hidden output: all machinery is in the library."""
    for where, cell in book.cells():
        flags = cell.metadata.get("jupyter", {})
        hidden = [flags.get("source_hidden"), flags.get("outputs_hidden"), cell.metadata.get("collapsed")]
        if any(hidden) or _HIDING_TAGS & set(cell.metadata.get("tags", [])):
            yield f"{where}: is hidden; show it, or move its code into the library"


def executed(book: Notebook) -> Iterator[str]:
    """Run from top to bottom in one go, with outputs and without errors or warnings."""
    counts = [cell.execution_count for _, cell in book.cells("code")]
    if counts != list(range(1, len(counts) + 1)):
        yield "not executed from top to bottom in one go: run `tools/notebooks.py run`"
    if counts and not any(True for _ in book.outputs()):
        yield "it has no outputs: run `tools/notebooks.py run`"
    for where, output in book.outputs():
        if output.output_type == "error":
            yield f"{where}: ends in {output.ename}; mend it and run the notebook again"
        if output.get("name") == "stderr":
            yield f"{where}: writes to stderr ({str(output.text).strip()[:40]}...); mend what it warns of"


def still_widgets(book: Notebook) -> Iterator[str]:
    """A saved widget shows nothing without a kernel: `tools/notebooks.py run` keeps its picture and its words."""
    for where, output in book.outputs():
        if WIDGET in output.get("data", {}):
            yield f"{where}: a live widget is saved: run `tools/notebooks.py run`, which keeps its picture and words"


def figures_checked(book: Notebook) -> Iterator[str]:
    """At least one cell's output is compared by nbval, and no such cell prints nothing."""
    tagged = [(where, cell) for where, cell in book.cells("code") if CHECKED in cell.metadata.get("tags", [])]
    if not tagged:
        yield f"no cell has the tag {CHECKED}: tag the cells whose figures must not change"
    for where, cell in tagged:
        if not cell.outputs:
            yield f"{where}: has the tag {CHECKED} and no output to compare; end it with the figure"


def twin_in_step(book: Notebook) -> Iterator[str]:
    """The text twin says the same."""
    try:
        same = same_text(book.twin.read_text(encoding="utf-8"), twin_text(book.node))
    except FileNotFoundError:
        yield f"has no twin {book.twin}: run `tools/notebooks.py sync`"
    else:
        if not same:
            yield (
                f"differs from its twin {book.twin}: run `tools/notebooks.py sync`, with `--from text` if the text is "
                "the newer one"
            )


Rule = Callable[[Notebook], Iterator[str]]
RULES: tuple[Rule, ...] = (
    well_formed, python3_kernel, short_cells, one_title, alt_text, small, no_secrets, nothing_hidden, executed,
    still_widgets, figures_checked, twin_in_step,
)  # fmt: skip


def faults(path: Path) -> list[str]:
    """Every fault of one notebook, a sentence each."""
    try:
        book = Notebook.read(path)
    except (ValueError, KeyError, AttributeError, nbformat.reader.NotJSONError) as error:
        return [f"cannot be read as a notebook ({error}); restore it"]
    first = list(well_formed(book))
    return first or [fault for rule in RULES for fault in rule(book)]
