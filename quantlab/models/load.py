"""Load a language model safely: `tiny`, `smollm2`, a local Hugging Face folder, or a Hub id.

    resolve    name -> a folder on this disk whose files were checked       (models.folder, models.hub)
    load       folder -> model and tokenizer that belong together

Weights are rounded to bfloat16, what models are published in, and computed with in float32: on a CPU that is fast,
and differences between formats are then the formats' own. Safetensors only; a model's own code runs only when it is
asked for by name. Loading says nothing unless it fails.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantlab.errors import QuantlabError, UsageError
from quantlab.models import hub, smollm2
from quantlab.models.architecture import check_architecture
from quantlab.models.bundled import TINY, tiny_folder
from quantlab.models.folder import Checkpoint, examine, read_json

if TYPE_CHECKING:
    from torch import nn

_BY_NAME = {TINY: tiny_folder, smollm2.NAME: smollm2.smollm2_folder}


@dataclass(frozen=True)
class ModelSource:
    """A model folder whose files were checked, and where it came from."""

    folder: Path
    name: str
    revision: str | None = None  # commit hash, for a model of the Hub
    trusted: bool = False  # its own code may run
    note: str = ""  # a sentence that belongs beside every figure of this model


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to use: weights in bfloat16 precision, held and computed in float32."""

    model: nn.Module
    tokenizer: Any
    source: ModelSource
    config: Any


def resolve(model: str, revision: str | None = None, trust_remote_code: str | bool = False) -> ModelSource:
    """Find a model and check its files; nothing is loaded.

    model: `tiny`, `smollm2`, a folder, or a Hub id. revision: branch, tag or commit, for a Hub id. trust_remote_code:
    the name of the model once more, to let its own code run; True is not enough, because consent is to one model.
    """
    if not model.strip():
        raise UsageError("the model's name is empty; give `tiny`, `smollm2`, a folder, or a Hub id such as owner/name")
    trusted = _consent(model, trust_remote_code)
    folder = _BY_NAME[model]() if model in _BY_NAME else Path(os.path.expanduser(model))
    if model not in _BY_NAME and not folder.exists() and _may_be_hub_id(model):
        folder, commit = hub.download(
            model, revision, trusted, check=lambda path: check_architecture(read_json(path), model, trusted)
        )
        source = ModelSource(folder, model, commit, trusted)
    elif revision is not None:
        raise UsageError(f"--revision is for a model of the Hub, and {model} is a folder; leave it out")
    else:
        name = model if model in _BY_NAME else folder.resolve().name
        source = ModelSource(folder, name, None, trusted, note=smollm2.NOTE if model == smollm2.NAME else "")
    check_architecture(examine(source.folder).config, model, trusted)
    return source


def _consent(model: str, trust_remote_code: str | bool) -> bool:
    if trust_remote_code is False or trust_remote_code == "":
        return False
    if trust_remote_code != model:
        raise UsageError(f"to run code that comes with a model, name that model: --trust-remote-code {model}")
    return True


def _may_be_hub_id(model: str) -> bool:
    """`name` or `owner/name`; anything else that does not exist is a missing folder."""
    parts = model.split("/")
    return len(parts) <= 2 and all(part and part[0] not in ".~" and not part.isspace() for part in parts)


def load(model: str | ModelSource, revision: str | None = None, trust_remote_code: str | bool = False) -> LoadedModel:
    """Load a model and its tokenizer; raises QuantlabError with the one thing to mend.

    >>> tiny = load("tiny")                                                                 # doctest: +SKIP
    >>> tiny.tokenizer.decode(tiny.model.generate(**tiny.tokenizer("Once", return_tensors="pt"))[0])  # doctest: +SKIP
    """
    source = resolve(model, revision, trust_remote_code) if isinstance(model, str) else model
    checkpoint = examine(source.folder)
    with quiet(), _explained(source):
        config = _read_config(checkpoint, source)
        _require_memory(checkpoint)
        tokenizer = _load_tokenizer(source)
        network = _load_weights(checkpoint, config, source)
    _check_tokenizer(tokenizer, network, checkpoint)
    return LoadedModel(network, tokenizer, source, config)


def _read_config(checkpoint: Checkpoint, source: ModelSource) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = checkpoint.folder / "config.json"
    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=source.trusted)
        if config.get_text_config().num_hidden_layers > len(checkpoint.tensors):
            raise QuantlabError(
                f"{where} asks for more layers than the weights have tensors; they do not belong together"
            )
        with torch.device("meta"):  # shapes only: nothing is allocated
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=source.trusted)
    except QuantlabError:
        raise
    except Exception as error:  # transformers raises KeyError, TypeError, its own: each means that the config is wrong
        raise QuantlabError(f"{where} does not describe a model: {_first_line(error)}; get it again") from error
    asked = sum(weight.numel() for weight in skeleton.parameters())
    if asked > 1.5 * checkpoint.parameters:
        raise QuantlabError(
            f"{where} asks for {asked:,} parameters and the weights hold {checkpoint.parameters:,}; "
            "they do not belong together"
        )
    return config


def _require_memory(checkpoint: Checkpoint) -> None:
    """Fail before the machine starts to swap: 2 bytes a weight as read, 4 as computed with."""
    import psutil

    needed, free = 6 * checkpoint.parameters, psutil.virtual_memory().available
    if needed > free:
        raise QuantlabError(
            f"loading {checkpoint.folder} takes about {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are "
            "free; close other programs or choose a smaller model"
        )


def _load_tokenizer(source: ModelSource) -> Any:
    from transformers import AutoTokenizer

    if (path := source.folder / "tokenizer.json").exists():
        read_json(path)
    try:
        return AutoTokenizer.from_pretrained(source.folder, local_files_only=True, trust_remote_code=source.trusted)
    except Exception as error:  # the Rust library raises bare Exception
        raise QuantlabError(
            f"the tokenizer in {source.folder} cannot be read: {_first_line(error)}; copy the model's own again"
        ) from error


def _load_weights(checkpoint: Checkpoint, config: Any, source: ModelSource) -> nn.Module:
    import torch
    from transformers import AutoModelForCausalLM

    from quantlab.core import all_finite

    network, report = AutoModelForCausalLM.from_pretrained(
        source.folder, config=config, dtype=torch.bfloat16, use_safetensors=True, local_files_only=True,
        trust_remote_code=source.trusted, ignore_mismatched_sizes=True, output_loading_info=True,
    )  # fmt: skip
    _check_report(report, checkpoint)
    network = network.float().eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if not all_finite(weight):
            raise QuantlabError(f"{name} in {source.folder} holds values that are not finite; download the model again")
    assert isinstance(network, torch.nn.Module)
    return network


def _check_report(report: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Weights and config must tell the same model; transformers itself would fill the gaps with random numbers."""
    end = f"in {checkpoint.folder}: config.json and the weights do not belong together"
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, asked = mismatched[0]
        raise QuantlabError(f"{name} has shape {list(stored)} and config.json asks for {list(asked)} {end}")
    if missing := sorted(report["missing_keys"]):
        raise QuantlabError(f"{missing[0]} and {len(missing) - 1} other tensors are missing {end}")
    stored_only = (checkpoint.tensors.get(name) for name in report["unexpected_keys"])
    if matrices := sorted(entry.name for entry in stored_only if entry and len(entry.shape) > 1):
        raise QuantlabError(f"{matrices[0]} and {len(matrices) - 1} other matrices are not in the config {end}")


def _check_tokenizer(tokenizer: Any, network: Any, checkpoint: Checkpoint) -> None:
    """Every id that the tokenizer or the config can produce must have a row in the embedding."""
    rows = network.get_input_embeddings().weight.shape[0]
    vocabulary = tokenizer.get_vocab()
    if not vocabulary:
        raise QuantlabError(f"the tokenizer in {checkpoint.folder} is empty; copy the model's own again")
    token, highest = max(vocabulary.items(), key=lambda item: item[1])
    if highest >= rows:
        raise QuantlabError(
            f"the tokenizer in {checkpoint.folder} does not match the model: it gives ids up to {highest} ({token!r}), "
            f"the embedding has {rows} rows; copy the model's own tokenizer again"
        )
    for owner, table in (("config.json", network.config), ("generation_config", network.generation_config),
                         ("tokenizer", tokenizer)):  # fmt: skip
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(table, name, None)
            ids = value if isinstance(value, list) else [value]
            if wrong := [i for i in ids if i is not None and not -1 <= i < rows]:
                raise QuantlabError(
                    f"{name} of the {owner} in {checkpoint.folder} is {wrong[0]}, outside the embedding's {rows} rows; "
                    "copy the model's own files again"
                )


@contextmanager
def _explained(source: ModelSource) -> Iterator[None]:
    """What transformers raises while it loads, as one sentence."""
    try:
        yield
    except QuantlabError:
        raise
    except ImportError as error:
        raise QuantlabError(f"{source.name} needs a package that is not installed: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise QuantlabError(f"{source.name} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".:") if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of transformers while the block runs."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


__all__ = ["TINY", "LoadedModel", "ModelSource", "load", "resolve"]
