"""The README.md of a checkpoint: what it is, how it was made, how to load it.

A file of weights without its history cannot be judged: which model, which method, which text it was calibrated on, by
which command. The front matter between the two lines of `---` is what the Hub reads; the rest is for people.

Source: huggingface.co/docs/hub/model-cards (front matter); huggingface_hub 1.30 reads and writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from quantlab import __version__
from quantlab.checkpoints.kind import Kind
from quantlab.core import QuantizedTensor
from quantlab.models.folder import Checkpoint

_MAX_CARD = 2**20  # bytes; a longer README is no card
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ROWS = ("method", "options", "calibration", "command", "versions", "note")  # of `made`, in the order of the card

_BODY = """---
{front}---

# {title}

{name}, its linear layers quantized to {bits:.4g} bits a weight ({format}) by {by}.

| | |
|---|---|
{rows}

## Load it

It is a checkpoint of kind **{kind}**, for {loaded_by}:

```console
vllm serve PATH_OF_THIS_FOLDER
```

## Check it

`quantlab.json` holds the SHA-256 of every file. `quantlab verify PATH_OF_THIS_FOLDER` compares them, and what
config.json says with the tensors that are really here.

Quantization changes what a model answers. Nothing on this card says by how much: measure it on your own task.
"""


def model_card(
    model: Checkpoint, kind: Kind, quantized: Mapping[str, QuantizedTensor], nbytes: int, made: Mapping[str, Any]
) -> str:
    """The text of README.md.

    model: the source. nbytes: of all new weights. made: `model` (a name, a Hub id), `revision`, `license`, `by` (the
    library that made it, if it was another), and the rows `method`, `options`, `calibration`, `command`, `versions`,
    `note`, each where it is known.
    """
    name = str(made.get("model") or model.folder.resolve().name)
    fmt = next(iter(quantized.values())).fmt
    weights = sum(Q.shape[0] * Q.shape[1] for Q in quantized.values())
    rows = {
        "original": f"{name}{_at(made)}, {model.nbytes / 1e6:,.1f} MB of weights",
        "quantized": f"{nbytes / 1e6:,.1f} MB; {len(quantized)} layers, {weights:,} of {model.parameters:,} weights",
        "format": f"`{fmt.name}`: {fmt.layout.note}",
        "as stored by": f"{fmt.reference.package} {fmt.reference.version}",
        **{row: _cell(made[row]) for row in _ROWS if made.get(row)},
    }
    return _BODY.format(
        front=_front_matter(model, kind, name, made),
        title=f"{name.rpartition('/')[2]}, {fmt.name}",
        name=name,
        bits=8 * sum(Q.nbytes for Q in quantized.values()) / weights,
        format=fmt.name,
        by=made.get("by") or f"[quantlab](https://github.com/quantlab-course/quantlab) {__version__}",
        rows="\n".join(f"| {row} | {text} |" for row, text in rows.items()),
        kind=kind.name,
        loaded_by=kind.loaded_by,
    )


def _front_matter(model: Checkpoint, kind: Kind, name: str, made: Mapping[str, Any]) -> str:
    """YAML, written and quoted by the Hub's own library."""
    from huggingface_hub import ModelCardData

    license_name = made.get("license") or _license_of(model)
    data = ModelCardData(
        base_model=name if _HUB_ID.fullmatch(name) else None,
        base_model_relation="quantized" if _HUB_ID.fullmatch(name) else None,
        license=str(license_name) if license_name else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["quantized", kind.name],
        quantized_by=str(made.get("by") or f"quantlab {__version__}"),
    )
    return str(data.to_yaml()) + "\n"


def _license_of(model: Checkpoint) -> str | None:
    """The licence that the front matter of the original's own card states in one word."""
    card = model.folder / "README.md"
    if not card.is_file() or card.stat().st_size > _MAX_CARD:
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    stated = re.search(r"^license: *([\w.-]+) *$", front[1], re.MULTILINE) if front else None
    return stated[1] if stated else None


def _at(made: Mapping[str, Any]) -> str:
    return f" at `{made['revision']}`" if made.get("revision") else ""


def _cell(value: Any) -> str:
    """A value as one cell of a table."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {one}" for key, one in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")
