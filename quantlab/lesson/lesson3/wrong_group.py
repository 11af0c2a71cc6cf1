"""A checkpoint whose config.json says another group size than its scales were made for.

Nothing in the weights is damaged. A reader that believes the config takes the wrong scale and zero point for most
columns: column j has scale j // group. With a group that is too large there are fewer groups than scales, and the first
ones serve for all columns; with one that is too small it would need scales that are not there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from quantlab.core import QuantizedTensor
from quantlab.errors import QuantlabError
from quantlab.evaluate.quality import Quality
from quantlab.formats.catalog import get
from quantlab.lesson.lesson2.story import story_model


@lru_cache(maxsize=4)
def stored(group: int = 128) -> dict[str, QuantizedTensor]:
    """Every linear layer of the story model as an AWQ checkpoint of such groups holds it."""
    fmt = get(f"awq_int4_g{group}")
    return {name: fmt.quantize(W) for name, W in story_model().layers.items()}


@lru_cache(maxsize=8)
def quality_if_believed(group: int, made: int = 128) -> Quality:
    """What a reader makes of the model that takes scale and zero j // group for column j; `made` is what was stored.

    Raises QuantlabError for a group that needs more scales than the file holds.
    """
    found = {}
    for name, Q in stored(made).items():
        q, p = Q.fmt.packing.unpack(Q.parts, Q.shape)
        scales, needed = p["scale"].shape[1], Q.shape[1] // group
        if needed > scales:
            raise QuantlabError(
                f"{name} has {scales} scales a row, groups of {group} need {needed}: a reader must stop"
            )
        fewer = {part: values[:, :needed] for part, values in p.items()}
        found[name] = get(Q.fmt.name, group=group).grid.decode(q, fewer)
    return story_model().quality(found)


@contextmanager
def checkpoint(group: int, made: int = 128) -> Iterator[Path]:
    """The checkpoint in a temporary folder, its config.json changed to say `group`."""
    from quantlab.checkpoints.write import write_checkpoint

    with tempfile.TemporaryDirectory(prefix="quantlab-wrong-group-") as place:
        folder = write_checkpoint(story_model().loaded.source.folder, Path(place) / "checkpoint", stored(made))
        if group != made:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config["quantization_config"]["group_size"] = group
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield folder


@lru_cache(maxsize=8)
def what_the_verifier_says(group: int, made: int = 128) -> str:
    """Its sentence about such a checkpoint, from the headers alone; empty when it finds nothing wrong."""
    from quantlab.checkpoints.verify import verify

    with checkpoint(group, made) as folder:
        return (verify(folder, quick=True).fault or "").replace(str(folder), folder.name)
