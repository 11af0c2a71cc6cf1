"""Where files are: those that come with quantlab, and those that it makes once and keeps."""

from __future__ import annotations

import os
from pathlib import Path

from quantlab.errors import QuantlabError

_PACKAGE = Path(__file__).resolve().parent


def bundled(name: str) -> Path:
    """Path of a bundled file or folder, such as `assets/story-model` or `lessons`.

    >>> bundled("assets/stories").name
    'stories'
    """
    installed = _PACKAGE / "_bundle"  # in a wheel; the folder above the package is then everybody's site-packages
    path = (installed if installed.is_dir() else _PACKAGE.parent) / name
    if not path.exists():
        raise QuantlabError(f"the bundled {name} is missing from this installation; install quantlab again")
    return path


def cache_folder() -> Path:
    """The folder of everything that can be made again: `QUANTLAB_CACHE`, or `quantlab` in the user's cache."""
    if chosen := os.environ.get("QUANTLAB_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quantlab"
