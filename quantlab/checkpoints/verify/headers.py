"""Files, index and headers: is everything there, whole, and what it says it is? Nothing of the weights is read.

Beside what `quantlab.models.folder.examine` refuses at the first sight, all of it is told at once here, and each file
is looked at by itself, so that one damaged shard does not hide another.

    pointer     Git LFS leaves 130 bytes where a file was not fetched
    pickle      a checkpoint that runs code when it is opened
    index       every shard that it names is there, and holds what the index says
    header      quantlab.models.weights_file: lengths, offsets, types, the size of the file
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantlab.checkpoints.verify.result import Findings
from quantlab.errors import QuantlabError
from quantlab.models.folder import INDEX, PICKLES, WEIGHTS, read_json, refuse_pickles, shard_names
from quantlab.models.weights_file import Entry, read_header

MAX_JSON = 64 * 2**20  # bytes: the largest tokenizers take 35 MB, configs some kilobytes
_POINTER = b"version https://git-lfs"
_FETCHED = (".safetensors", ".json", ".model", ".gguf", ".bin", ".jinja", ".txt")


@dataclass(frozen=True)
class Model:
    """What a folder holds by its headers. config is empty where it could not be read."""

    folder: Path
    names: frozenset[str]
    config: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)  # tensor -> its file

    @property
    def whole(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self.config) and bool(self.entries)


def look(folder: Path, findings: Findings) -> Model:
    """Read everything but the weights."""
    try:
        names = frozenset(path.name for path in folder.iterdir())
    except OSError as error:
        raise QuantlabError(f"cannot read the folder {folder}: {error.strerror}; check its permissions") from error
    if not names:
        findings.fault("files", f"the model folder {folder} is empty; copy or download the model into it again")
        return Model(folder, names)
    pointers = {name for name in sorted(names) if is_pointer(folder / name)}
    for name in sorted(pointers):
        sentence = f"{folder / name} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
        findings.fault("files", sentence, "pointer")
    _pickles(folder, names, findings)
    config = _config(folder, names - pointers, findings)
    shards, listed = _shards(folder, names, pointers, findings)
    entries, places = _headers(shards, findings)
    if listed:
        _compare(folder, listed, places, findings)
    findings.well("files", f"{len(names)} files, the weights in {len(shards)}")
    return Model(folder, names, config, entries, places)


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in the place of one that was not fetched."""
    if path.suffix not in _FETCHED or not path.is_file() or path.stat().st_size >= 1024:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def small_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """A JSON object of a file of bounded size; raises QuantlabError for anything else."""
    if path.exists() and not path.is_file():
        raise QuantlabError(f"{path} is no ordinary file; get it again")
    if path.is_file() and (size := path.stat().st_size) > limit:
        raise QuantlabError(f"{path} has {size:,} bytes, {limit:,} are more than any model needs; get it again")
    return read_json(path)


def _pickles(folder: Path, names: Collection[str], findings: Findings) -> None:
    try:
        refuse_pickles(set(names), str(folder))
    except QuantlabError as error:
        findings.fault("files", str(error))
        return
    if beside := sorted(name for name in names if name.endswith(PICKLES)):
        findings.unsure("files", f"{beside[0]} is a pickle, which runs code when it is opened; it was left alone")


def _config(folder: Path, names: Collection[str], findings: Findings) -> dict[str, Any]:
    if "config.json" not in names:
        findings.fault("config", f"{folder} holds no config.json; copy that of the model into it")
        return {}
    try:
        config = small_json(folder / "config.json")
    except QuantlabError as error:
        findings.fault("config", str(error))
        return {}
    if not isinstance(config.get("model_type"), str):
        where = folder / "config.json"
        findings.fault("config", f"{where} names no model_type; it is not the config of a language model")
        return {}
    if config.get("auto_map"):
        findings.unsure("config", "config.json asks a loader to run code of the model's own (auto_map); it was not run")
    findings.well("config", f"config.json describes a {config['model_type']}")
    return config


def _shards(
    folder: Path, names: Collection[str], pointers: Collection[str], findings: Findings
) -> tuple[list[Path], dict[str, str]]:
    """The files of the weights that can be read, and what the index says is in which."""
    if WEIGHTS in names:
        return [folder / name for name in (WEIGHTS,) if name not in pointers], {}
    if INDEX not in names:
        if any(name.endswith(".safetensors") for name in names):
            what = f"{folder} holds neither {WEIGHTS} nor {INDEX}; rename the weights or copy the index"
            findings.fault("files", what)
        return [], {}
    if INDEX in pointers:
        return [], {}
    try:
        small_json(folder / INDEX)
        named = shard_names(folder / INDEX)
        listed = {tensor: str(shard) for tensor, shard in read_json(folder / INDEX)["weight_map"].items()}
    except QuantlabError as error:
        findings.fault("index", str(error))
        return [], {}
    for name in named:
        if name not in names:
            sentence = f"{folder / INDEX} names {name}, which is missing; copy or download it again"
            findings.fault("files", sentence, "missing shard")
    findings.well("index", f"{len(listed):,} tensors in {len(named)} shards, each where the index says")
    return [folder / name for name in named if name in names and name not in pointers], listed


def _headers(shards: list[Path], findings: Findings) -> tuple[dict[str, Entry], dict[str, Path]]:
    entries: dict[str, Entry] = {}
    places: dict[str, Path] = {}
    for shard in shards:
        try:
            header = read_header(shard) if shard.is_file() else {}
        except QuantlabError as error:
            findings.fault("headers", str(error))
            continue
        for name, entry in header.items():
            if name in places:
                both = f"{places[name].name} and in {shard.name}"
                findings.fault("index", f"{name} is in {both}; loaders keep one of the two: remove the other", "twice")
            if not entry.nbytes:
                findings.fault("headers", f"{name} in {shard} holds no number; get the model again", "no number")
        entries |= header
        places |= dict.fromkeys(header, shard)
    if shards and not entries and not findings.failed("headers"):
        findings.fault("headers", f"{shards[0]} holds no tensors; copy or download it again")
    findings.well("headers", f"{len(entries):,} tensors lie end to end and fill their files")
    return entries, places


def _compare(folder: Path, listed: dict[str, str], places: dict[str, Path], findings: Findings) -> None:
    """What the index says against what the headers say; shards that could not be read are told elsewhere."""
    read = {path.name for path in places.values()}
    for name, shard in listed.items():
        if shard in read and (name not in places or places[name].name != shard):
            really = f"it is in {places[name].name}" if name in places else "no shard has it"
            sentence = f"{INDEX} says that {name} is in {shard}, but {really}; download the model again"
            findings.fault("index", sentence, "not where the index says")
    if unlisted := sorted(places.keys() - listed.keys()):
        where = places[unlisted[0]].name
        count = f", and {len(unlisted) - 1:,} more" if len(unlisted) > 1 else ""
        findings.unsure("index", f"{where} holds {unlisted[0]}, which {folder / INDEX} does not list{count}")


def as_text(value: Any) -> str:
    """A value of a stranger's JSON, short enough for a sentence."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
