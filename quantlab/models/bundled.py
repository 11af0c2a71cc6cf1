"""The model that comes with quantlab: a small Llama trained from scratch to tell stories, and the texts beside it.

>>> tiny_folder().name
'story-model'
"""

from __future__ import annotations

import json
from pathlib import Path

from quantlab.assets import bundled
from quantlab.errors import QuantlabError
from quantlab.models.folder import examine

TINY = "tiny"  # its name wherever a model can be given
# lines of each
STORIES = {"calibrate.jsonl": 60, "evaluate.jsonl": 60, "prompts.jsonl": 40, "endings.jsonl": 60, "finetune.jsonl": 52}


def tiny_folder() -> Path:
    """The folder of the bundled model, in Hugging Face's layout."""
    return bundled("assets/story-model")


def problems() -> list[str]:
    """What is wrong with the bundled files, a sentence each; empty when all are there, whole and well-formed."""
    found = []
    for check in (_model, _stories, _notebooks):
        try:
            check()
        except QuantlabError as error:
            found.append(str(error))
    return found


def _model() -> None:
    examine(tiny_folder())


def _stories() -> None:
    for name, count in STORIES.items():
        path = bundled("assets/stories") / name
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise QuantlabError(f"the bundled {path} is missing or damaged; install quantlab again") from error
        if len(lines) != count:
            raise QuantlabError(f"the bundled {path} has {len(lines)} lines instead of {count}; install quantlab again")


def _notebooks() -> None:
    for folder in (bundled("lessons"), bundled("labs")):
        notebooks = sorted(folder.glob("*.ipynb"))
        if not notebooks:
            raise QuantlabError(f"the bundled folder {folder} holds no notebook; install quantlab again")
        for path in notebooks:
            try:
                json.loads(path.read_text(encoding="utf-8"))["cells"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise QuantlabError(f"the bundled {path} is damaged; install quantlab again") from error


def summary() -> str:
    """What is bundled, in a few words."""
    weights = sum(path.stat().st_size for path in tiny_folder().glob("*.safetensors")) / 1e6
    lessons, labs = (len(list(bundled(name).glob("*.ipynb"))) for name in ("lessons", "labs"))
    return f"story model ({weights:.0f} MB), {sum(STORIES.values())} texts, lessons: {lessons}, labs: {labs}"
