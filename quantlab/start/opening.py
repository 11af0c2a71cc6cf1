"""Which folder JupyterLab opens, and which notebook: the decisions behind `quantlab start`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quantlab.doctor import Status, essentials
from quantlab.errors import QuantlabError, UsageError
from quantlab.start.working_copy import Change, Laid, lay_out

COPIED = ("lessons", "labs")
Say = Callable[[str], None]


def is_checkout(home: Path) -> bool:
    """Whether `home`, the folder that holds the bundled lessons, is a checkout of the repository."""
    return (home / "pyproject.toml").is_file()


def choose_folder(home: Path, folder: Path | None) -> Path:
    """Where to work: the folder asked for; else the checkout itself; else ~/quantlab."""
    if folder is not None:
        return folder.expanduser().resolve()
    return home if is_checkout(home) else Path.home() / "quantlab"


def prepare(home: Path, folder: Path | None, say: Say) -> Path:
    """Check the machine and lay out the working copy; returns the folder that JupyterLab shows.

    home: the folder that holds the bundled lessons and labs. A checkout is never laid out over itself.
    """
    root = choose_folder(home, folder)
    check_machine(root, say)
    if root == home.resolve() and is_checkout(home):
        say(f"opening the lessons of this checkout, {root} (`quantlab start DIR` makes a copy of your own)")
        return root
    for line in describe(lay_out({name: home / name for name in COPIED}, root), root):
        say(line)
    return root


def check_machine(folder: Path, say: Say) -> None:
    """Raise QuantlabError when the lessons cannot run here; say what may go wrong."""
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    checks = essentials(existing)
    for check in checks:
        if check.status is Status.FAILURE:
            raise QuantlabError(f"{check.name}: {check.value}; {check.fix}")
        if check.status is Status.WARNING:
            say(f"{check.name}: {check.value}; {check.fix}")
    say(f"this machine can run the lessons ({len(checks)} checks; `quantlab doctor` shows them and more)")


def describe(laid: list[Laid], root: Path) -> list[str]:
    """What was done to the working copy, in lines: one in all, and one for each file that needs the learner's eye."""
    counts = {change: sum(step.change is change for step in laid) for change in Change}
    done = ", ".join(f"{count} {change.value}" for change, count in counts.items() if count)
    lines = [f"{root}: {done or 'nothing to lay out'}"]
    lines += [f"  {step.path}: the new version is {Path(step.new).name}" for step in laid if step.new]
    return lines


def find_lesson(root: Path, number: int) -> str:
    """Path of a lesson's notebook inside the working copy; raises UsageError for a number that does not exist."""
    lessons = sorted((root / "lessons").glob("[0-9][0-9]_*.ipynb"))
    first = [path for path in lessons if path.name.startswith(f"{number:02d}_") and ".new" not in path.suffixes]
    if not first:
        known = sorted({int(path.name[:2]) for path in lessons})
        raise UsageError(f"there is no lesson {number}; known: {', '.join(map(str, known)) or 'none'}")
    return f"lessons/{first[0].name}"
