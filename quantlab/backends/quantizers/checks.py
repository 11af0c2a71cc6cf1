"""What can be known before a library begins: an hour of work must not end in a sentence that was known at its start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from quantlab.atomic import require_space
from quantlab.backends.environments import has_nvidia
from quantlab.backends.quantizers.libraries import Library
from quantlab.backends.quantizers.offers import GROUPED, Choice
from quantlab.backends.quantizers.order import ROW
from quantlab.errors import QuantlabError, UsageError, unknown
from quantlab.models.folder import Checkpoint
from quantlab.models.load import LoadedModel
from quantlab.models.request import KEEP
from quantlab.models.walk import linear_layers

LIBRARY_BYTES = 512 * 2**20  # of memory that torch and a library take before a model is loaded
NO_KEEP = {
    "llama.cpp": "chooses the type of every tensor itself",
    "autoawq": "searches scales over all layers of a block and fails where one is kept",
}


def check_place(out: Path, gguf: bool) -> None:
    """Fail unless `out` can be made: it is not there, its folder is writable, its name fits what will be written."""
    if gguf and out.suffix.lower() != ".gguf":
        raise UsageError(f"this makes one GGUF file; name it {out.name}.gguf")
    if not gguf and out.suffix.lower() == ".gguf":
        raise UsageError(f"this makes a folder, not a GGUF file; name it {out.stem}")
    if out.exists():
        raise QuantlabError(f"{out} exists already; choose another name, or remove it first")
    above = next((path for path in out.absolute().parents if path.exists()), None)
    if above is None or not above.is_dir():
        raise QuantlabError(f"cannot write {out}: {above} is a file; choose another path")
    if not os.access(above, os.W_OK | os.X_OK):
        raise QuantlabError(f"cannot write {out}: {above} is not writable for you; choose a folder that is")


def check_library(library: Library, choice: Choice, model_type: str) -> None:
    """Fail unless the library is here, loads this kind of model, and has the GPU it needs."""
    if problem := library.missing():
        raise QuantlabError(problem)
    if library.model_types and model_type not in library.model_types:
        raise QuantlabError(
            f"{library.title} does not load models of type {model_type!r}; take a model of type "
            f"{', '.join(library.model_types[:4])}, or another backend, such as llm-compressor"
        )
    if choice.offer.gpu and not has_nvidia():
        raise QuantlabError(
            f"{library.title}'s {choice.offer.method} needs an NVIDIA GPU, for it pins memory, and there is none here; "
            "take --backend autoawq or quantlab"
        )


def check_shapes(loaded: LoadedModel, choice: Choice, keep: Sequence[str]) -> None:
    """Fail where rows do not divide into groups, with a group that does."""
    group = choice.group
    if choice.offer.family not in GROUPED or group in (None, ROW):
        return
    assert group is not None
    widths = {name: layer.in_features for name, layer in linear_layers(loaded.model) if name not in keep}
    for name, k in widths.items():
        if k % group:
            fits = [size for size in choice.offer.groups if size > 0 and not any(k % size for k in widths.values())]
            hint = f"take --group {fits[0]}" if fits else "keep that layer (--keep), or take --group -1, a whole row"
            raise QuantlabError(f"{name} has rows of {k} weights, which do not divide into groups of {group}; {hint}")


def kept_layers(loaded: LoadedModel, patterns: Sequence[str], library: Library) -> tuple[str, ...]:
    """Full names of the layers that stay, for names, ends of names ("down_proj") or patterns ("model.layers.0.*")."""
    patterns = [pattern for pattern in patterns if pattern not in KEEP]  # those stay anyway
    if not patterns:
        return ()
    if why := NO_KEEP.get(library.name):
        raise UsageError(f"{library.title} {why}; leave --keep out, or take another backend")
    names = [name for name, _ in linear_layers(loaded.model)]
    kept: set[str] = set()
    for pattern in patterns:
        found = {
            name for name in names if name == pattern or name.endswith(f".{pattern}") or fnmatchcase(name, pattern)
        }
        if not found:
            raise unknown("layer to keep", pattern, {name.rpartition(".")[2] for name in names} | set(names))
        kept |= found
    if kept == set(names):
        raise UsageError("--keep leaves nothing to quantize; keep fewer layers")
    return tuple(name for name in names if name in kept)


def check_resources(out: Path, model: Checkpoint, library: Library) -> None:
    """Fail where memory or disk certainly do not suffice: the model as it is loaded, and once more on the disk."""
    import psutil

    require_space(out.parent, model.nbytes, f"quantizing {model.folder.name}")
    needed, free = LIBRARY_BYTES + library.bytes_per_weight * model.parameters, psutil.virtual_memory().available
    if needed > free:
        raise QuantlabError(
            f"{library.title} needs at least {needed / 2**30:.1f} GiB of memory for {model.folder.name}, "
            f"{free / 2**30:.1f} GiB are free; close other programs or choose a smaller model"
        )
