"""Look at a Hugging Face model folder before loading it: is everything there, whole, and safe? No torch needed.

config.json                     what the model is
model.safetensors               its weights, or
model.safetensors.index.json    {"weight_map": {tensor: shard file}} and the shards
tokenizer.json                  (or tokenizer.model, vocab.json + merges.txt, ...)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError
from quantlab.models.weights_file import Entry, read_header

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# any of these sets of files is a tokenizer
TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tekken.json",),
)


@dataclass(frozen=True)
class Checkpoint:
    """What a model folder holds, from its headers alone."""

    folder: Path
    config: dict[str, Any]
    shards: tuple[Path, ...]
    tensors: dict[str, Entry]

    @property
    def parameters(self) -> int:
        """Numbers stored in all shards together."""
        return sum(entry.parameters for entry in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of weights in all shards together."""
        return sum(entry.nbytes for entry in self.tensors.values())


def examine(folder: Path) -> Checkpoint:
    """Check a local model folder; raises QuantlabError with the one thing to mend."""
    if not folder.exists():
        raise QuantlabError(f"there is no model folder {folder}; check the path")
    if not folder.is_dir():
        raise QuantlabError(f"{folder} is a file; give the folder that holds config.json and model.safetensors")
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise QuantlabError(f"cannot read the folder {folder}: {error.strerror}; check its permissions") from error
    if not names:
        raise QuantlabError(f"the model folder {folder} is empty; copy or download the model into it again")
    refuse_pickles(names, str(folder))
    if "config.json" not in names:
        raise QuantlabError(f"{folder} holds no config.json; give a Hugging Face model folder")
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise QuantlabError(f"{folder / 'config.json'} names no model_type; it is not the config of a language model")
    shards = weight_files(folder)
    tensors = _tensors(folder, shards)
    if not any(all(name in names for name in files) for files in TOKENIZERS):
        raise QuantlabError(f"{folder} holds no tokenizer; copy tokenizer.json of the same model into it")
    return Checkpoint(folder, config, shards, tensors)


def refuse_pickles(names: set[str], where: str) -> None:
    """Raise unless there are safetensors among the file names; pickles beside them are never opened."""
    if any(name.endswith(".safetensors") for name in names) or INDEX in names:
        return
    if pickles := sorted(name for name in names if name.endswith(PICKLES)):
        raise QuantlabError(
            f"{where} holds only a pickle checkpoint ({pickles[0]}), which can run any code when it is opened and is "
            "refused; get a safetensors version of the model, or convert it on a machine you can afford to lose"
        )
    if ggufs := sorted(name for name in names if name.endswith(".gguf")):
        raise QuantlabError(f"{where} holds {ggufs[0]} but no safetensors; give the original model's folder")
    raise QuantlabError(f"{where} holds no model.safetensors; give a folder with the weights as safetensors")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises QuantlabError naming the line where it breaks."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; check that it is there and readable") from error
    except json.JSONDecodeError as error:
        raise QuantlabError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}); get it again") from error
    except (ValueError, RecursionError) as error:
        raise QuantlabError(f"{path} is not a JSON text file; get it again") from error
    if not isinstance(content, dict):
        raise QuantlabError(f"{path} holds no JSON object; get it again")
    return content


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that make up the model: one, or the shards its index names."""
    if (folder / WEIGHTS).exists():
        return (folder / WEIGHTS,)
    if not (folder / INDEX).exists():
        raise QuantlabError(f"{folder} holds neither {WEIGHTS} nor {INDEX}; rename the weights or copy the index")
    shards = tuple(folder / name for name in shard_names(folder / INDEX))
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise QuantlabError(
            f"{folder / INDEX} names {missing[0]}, which is missing ({len(missing)} of {len(shards)} shards are); "
            "copy or download it again"
        )
    return shards


def shard_names(index: Path) -> list[str]:
    """Names of the files that an index refers to, all of them inside its own folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise QuantlabError(f"{index} has no weight_map; get it again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise QuantlabError(f"{index} names {name!r}, which is not a safetensors file beside it; get it again")
    return names


def _tensors(folder: Path, shards: tuple[Path, ...]) -> dict[str, Entry]:
    """Every tensor of every shard; with an index, exactly the ones that it lists."""
    tensors: dict[str, Entry] = {}
    for shard in shards:
        tensors.update(read_header(shard))
    if not tensors:
        raise QuantlabError(f"{shards[0]} holds no tensors; copy or download it again")
    if shards[0].name != WEIGHTS:
        listed = set(read_json(folder / INDEX)["weight_map"])
        if absent := sorted(listed - set(tensors)):
            raise QuantlabError(f"{folder / INDEX} lists {absent[0]}, which no shard holds; download the model again")
    return tensors
