"""The text that a model is calibrated on: cut into windows, gathered into batches. Not one sample is dropped.

    whole   one text, one window                     a text longer than the window is an error, never cut in silence
    split   one text, as many windows as it takes
    pack    all texts end to end, cut every `window` tokens; the last window may be shorter

AutoAWQ 0.2.9 drops every text longer than `max_calib_seq_len` and the rest of what it packs; llm-compressor 0.14 cuts
texts at `max_seq_length`. Neither says how much was left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantlab.assets import bundled
from quantlab.errors import QuantlabError
from quantlab.models.load import LoadedModel

TOKENS = 1024  # in a batch
CUTS = ("whole", "split", "pack")


@dataclass(frozen=True)
class Calibration:
    """Which text a model is calibrated on, and how it is cut into windows of at most `window` tokens.

    texts: strings, or windows of token ids cut already. cut: "whole" makes one window of each text and refuses one
    that is longer; "split" cuts longer texts in several; "pack" writes all texts end to end and cuts there. Nothing is
    dropped. Where the tokenizer has a BOS token each window starts with it, as in `quantlab compare`. at_least: fewer
    windows than this are an error. compute: the type of the forward passes; sums are float32 in any case.
    """

    texts: tuple[str | tuple[int, ...], ...] = field(default_factory=lambda: tuple(stories()))
    window: int = 512
    cut: str = "whole"
    at_least: int = 8
    compute: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.cut not in CUTS:
            raise ValueError(f"cut must be one of {', '.join(CUTS)}, got {self.cut!r}")
        if self.window < 2:
            raise ValueError(f"a window needs at least 2 tokens, got {self.window}")
        if self.compute not in (torch.float32, torch.bfloat16):
            raise ValueError(f"compute must be torch.float32 or torch.bfloat16, got {self.compute}")


def stories() -> list[str]:
    """The bundled calibration texts, none of which the bundled model is evaluated on."""
    lines = bundled("assets/stories/calibrate.jsonl").read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["text"]) for line in lines]


def openings() -> list[str]:
    """The bundled beginnings of stories, for a model to go on from."""
    lines = map(json.loads, bundled("assets/stories/prompts.jsonl").read_text(encoding="utf-8").splitlines())
    return [str(line["prompt"]) for line in lines if line["kind"] == "opening"]


def windows(loaded: LoadedModel, calibration: Calibration) -> list[tuple[int, ...]]:
    """The token ids of each window; raises QuantlabError for texts that are empty, too long or too few."""
    room = _room(loaded, calibration)
    bos = () if loaded.tokenizer.bos_token_id is None else (int(loaded.tokenizer.bos_token_id),)
    cut: list[tuple[int, ...]] = []
    rest: tuple[int, ...] = ()
    for number, text in enumerate(calibration.texts):
        ids = _ids(loaded, number, text)
        if not isinstance(text, str):
            cut += [_whole(number, ids, calibration.window, calibration)]
        elif calibration.cut == "whole":
            cut += [bos + _whole(number, ids, room - len(bos), calibration)]
        elif calibration.cut == "split":
            cut += [bos + ids[at : at + room - len(bos)] for at in range(0, len(ids), room - len(bos))]
        else:
            rest += ids
    cut += [bos + rest[at : at + room - len(bos)] for at in range(0, len(rest), room - len(bos))]
    if len(cut) < calibration.at_least:
        raise QuantlabError(
            f"{len(cut)} calibration windows of at most {room} tokens are fewer than the {calibration.at_least} that "
            f"statistics should rest on; add texts, or say at_least={len(cut)}"
        )
    return cut


def _room(loaded: LoadedModel, calibration: Calibration) -> int:
    """Tokens of a window; raises where the model takes fewer."""
    longest = getattr(loaded.config.get_text_config(), "max_position_embeddings", None) or calibration.window
    if calibration.window > longest:
        raise QuantlabError(
            f"{loaded.source.name} takes at most {longest} tokens, not {calibration.window}; choose a smaller window"
        )
    return calibration.window


def _ids(loaded: LoadedModel, number: int, text: str | tuple[int, ...]) -> tuple[int, ...]:
    ids = tuple(loaded.tokenizer(text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else text)
    if not ids:
        raise QuantlabError(f"calibration text {number} is empty; take it out")
    rows = loaded.model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if not 0 <= min(ids) <= max(ids) < rows:
        raise QuantlabError(
            f"calibration text {number} has token ids from {min(ids)} to {max(ids)}, the model knows 0 to {rows - 1}; "
            "tokenize it with this model's tokenizer"
        )
    return ids


def _whole(number: int, ids: tuple[int, ...], room: int, calibration: Calibration) -> tuple[int, ...]:
    if len(ids) > room:
        raise QuantlabError(
            f"calibration text {number} has {len(ids)} tokens and a window of {calibration.window} takes {room}; "
            'choose a larger window, or cut="split" to use it in parts'
        )
    return ids


@dataclass(frozen=True)
class Batch:
    """Windows that run together, padded on the right: a causal model does not look there."""

    ids: Tensor  # (B, T)
    real: Tensor | None  # (B, T) bool; None where nothing is padded


def batches(cut: list[tuple[int, ...]], tokens: int = TOKENS) -> list[Batch]:
    """Windows of similar length together, each batch at most `tokens` long, padding included."""
    found: list[list[tuple[int, ...]]] = []
    for window in sorted(cut, key=len, reverse=True):
        if not found or len(found[-1][0]) * (len(found[-1]) + 1) > tokens:
            found.append([])
        found[-1].append(window)
    return [_batch(group) for group in found]


def _batch(group: list[tuple[int, ...]]) -> Batch:
    longest = len(group[0])
    ids = torch.tensor([[*window, *[0] * (longest - len(window))] for window in group])
    lengths = torch.tensor([len(window) for window in group])
    real = torch.arange(longest) < lengths[:, None]
    return Batch(ids, None if bool(real.all()) else real)
