"""The notebooks and their text twins: check them, keep them in step, run them.

    python tools/notebooks.py check                     every rule of tools/notebook_rules.py, on every notebook
    python tools/notebooks.py run lessons/01_*.ipynb    execute in place; the same bytes on every machine
    python tools/notebooks.py sync                      notebook -> lessons/text/NAME.py
    python tools/notebooks.py sync --from text NAME     text -> notebook, keeping the outputs of unchanged cells

Without names, all of lessons/ and labs/. A new notebook begins as its text: write lessons/text/NAME.py in py:percent
and run `sync --from text lessons/NAME.ipynb`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupytext.combine import combine_inputs_with_outputs
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from notebook_rules import KERNEL, LANGUAGE, WIDGET, Notebook, faults, same_text, twin_text

from quantlab import atomic
from quantlab.errors import QuantlabError

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("lessons", "labs")


def notebooks(names: Sequence[str]) -> list[Path]:
    """The notebooks that were named, or all of them; a twin's path names its notebook."""
    found = []
    for name in map(Path, names):
        path = name.parent.parent / f"{name.stem}.ipynb" if name.suffix == ".py" else name
        if path.suffix != ".ipynb":
            raise QuantlabError(f"{name} is no notebook; name files that end in .ipynb")
        found.append(path)
    return found or sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.ipynb"))


def check(paths: Sequence[Path]) -> int:
    """Print every fault; 1 if there are any."""
    count = 0
    for path in paths:
        found = faults(path) if path.exists() else ["does not exist"]
        count += len(found)
        for fault in found:
            print(f"{path}: {fault}")
    print(f"{len(paths)} notebooks checked, {count} faults")
    return int(count > 0)


def sync(paths: Sequence[Path], newer: str) -> int:
    """Write the twins from the notebooks, or the notebooks from the twins."""
    for path in paths:
        if newer == "text":
            twin = path.parent / "text" / f"{path.stem}.py"
            if not twin.exists():
                raise QuantlabError(f"{path} has no twin {twin}; write it first")
            save(path, from_text(twin.read_text(encoding="utf-8"), path))
            print(f"{twin} -> {path}")
        print(f"{path} -> {write_twin(path)}")
    return 0


def write_twin(path: Path) -> Path:
    """Write a notebook's twin, unless it says the same already."""
    book = Notebook.read(path)
    text = twin_text(book.node)
    if not (book.twin.exists() and same_text(book.twin.read_text(encoding="utf-8"), text)):
        book.twin.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(book.twin, text)
    return book.twin


def from_text(text: str, path: Path) -> Any:
    """The notebook of a twin, with the outputs and ids that an existing notebook has for the same cells."""
    node = jupytext.reads(text, fmt="py:percent")
    for cell in node.cells:
        cell.id = ""  # not the random one: `save` gives one that depends on the text
    if path.exists():
        node = combine_inputs_with_outputs(node, nbformat.read(path, as_version=4), fmt="py:percent")
    return node


def run(paths: Sequence[Path]) -> int:
    """Execute each notebook in its folder and save it; a learner's progress is neither read nor written."""
    quiet = os.environ | {"QUANTLAB_STATE": "off", "PYTHONHASHSEED": "0", "TQDM_DISABLE": "1"}
    for path in paths:
        node = nbformat.read(path, as_version=4)
        client = NotebookClient(
            node, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
            coalesce_streams=True, store_widget_state=False, record_timing=False,
        )  # fmt: skip
        try:
            client.execute(env=quiet)
        except CellExecutionError as error:
            raise QuantlabError(f"{path} stops with {error.ename}: {error.evalue}\n{error}") from None
        save(path, node)
        write_twin(path)
        print(f"{path}: {sum(cell.cell_type == 'code' for cell in node.cells)} cells ran")
    return 0


def save(path: Path, node: Any) -> None:
    """Write a notebook in the form that is committed: no timing, no versions, widgets as pictures and words."""
    node.nbformat, node.nbformat_minor = 4, 5
    node.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": LANGUAGE})
    seen: set[str] = set()
    for cell in node.cells:
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key == "tags"})
        cell.id = _new_id(cell.source, seen) if cell.get("id", "") in seen | {""} else cell.id
        seen.add(cell.id)
        if cell.cell_type == "code":
            cell.outputs = [still for output in cell.outputs for still in stills(output)]
    nbformat.validate(node)
    atomic.write_text(path, nbformat.writes(node) + "\n")


def stills(output: Any) -> list[Any]:
    """A live widget becomes its picture, with alternative text, and its words; other outputs stay."""
    data = output.get("data", {})
    if WIDGET not in data:
        return [output]
    kept = []
    words = data.get("text/plain", "")
    if "image/png" in data:
        still = {"image/png": data["image/png"], "text/plain": words}
        metadata = {"image/png": output.metadata.get("image/png", {})}
        kept.append(nbformat.v4.new_output("display_data", data=still, metadata=metadata))
    kept.append(nbformat.v4.new_output("display_data", data={"text/markdown": words, "text/plain": words}))
    return kept


def _new_id(source: str, taken: set[str]) -> str:
    """An id that depends on the cell's text alone, so that two machines agree."""
    tries = (hashlib.sha256(f"{source}{salt}".encode()).hexdigest()[:8] for salt in range(len(taken) + 1))
    return next(name for name in tries if name not in taken)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("check", "report every fault"), ("run", "execute in place"), ("sync", "write the twins")):
        command = commands.add_parser(name, help=text)
        command.add_argument("names", nargs="*", metavar="NOTEBOOK")
        if name == "sync":
            command.add_argument("--from", dest="newer", choices=("notebook", "text"), default="notebook")
    options = parser.parse_args(arguments)
    try:
        paths = notebooks(options.names)
        if options.command == "check":
            return check(paths)
        if options.command == "run":
            return run(paths)
        return sync(paths, options.newer)
    except (QuantlabError, OSError) as error:
        print(f"notebooks: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
