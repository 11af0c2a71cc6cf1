"""Where the bundled files are: in a checkout of the repository, or inside the installed package."""

from __future__ import annotations

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
