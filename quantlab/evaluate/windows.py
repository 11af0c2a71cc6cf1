"""The text that quality is measured on, cut into windows of tokens.

    story      The lighthouse lamp ...                        one story, one window, if it fits the context
    window     <BOS> The light house lamp ...                 each token but the first is predicted from those before it
    windows    <BOS> t1 ... t511 | <BOS> t512 ... t1022       a longer text: no overlap, every token scored once

Starting every window with BOS is what the model saw in training. The GPTQ and AWQ papers likewise cut WikiText without
overlap (2,048 tokens); llama.cpp's `perplexity` scores only the second half of each window, where there is more to go
by, and a sliding window gives every token a long past. Each gives another number: the passport says which it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantlab.assets import bundled
from quantlab.errors import QuantlabError
from quantlab.evaluate.passport import Passport, text_hash, tokenizer_hash


@dataclass(frozen=True)
class Window:
    """Token ids that are run at once, and the independent text that they come from."""

    tokens: tuple[int, ...]
    cluster: int


@dataclass(frozen=True)
class Windows:
    """A text ready to be measured on."""

    windows: tuple[Window, ...]
    passport: Passport

    @cached_property
    def clusters(self) -> Tensor:
        """For each scored token the text it belongs to [N]."""
        return torch.tensor([w.cluster for w in self.windows for _ in w.tokens[1:]])


def evaluation_texts(path: Path | None = None) -> list[str]:
    """The texts of a .jsonl file ({"text": ...} a line) or of a plain text file; without a path the bundled stories."""
    path = path or bundled("assets/stories/evaluate.jsonl")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QuantlabError(f"cannot read the text {path} ({error}); give a UTF-8 .txt or .jsonl file") from error
    if path.suffix != ".jsonl":
        return [content]
    try:
        return [str(json.loads(line)["text"]) for line in content.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise QuantlabError(f'{path} must hold {{"text": "..."}} on each line ({error}); mend that line') from error


def make_windows(texts: list[str], tokenizer: Any, folder: Path, context: int) -> Windows:
    """Cut texts into windows of at most `context` tokens, BOS included where the tokenizer has one.

    tokenizer: of transformers; folder: where its tokenizer.json is, for the passport. Raises QuantlabError for a text
    too short to be measured, because an error bar needs two independent windows.
    """
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    room = context - len(bos)
    if room < 2:
        raise QuantlabError(f"a context of {context} tokens leaves nothing to predict; choose at least {2 + len(bos)}")
    cut: list[Window] = []
    for story, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), room):
            cluster = story if len(texts) > 1 else len(cut)
            cut.append(Window((*bos, *ids[start : start + room]), cluster))
    cut = [window for window in cut if len(window.tokens) > 1]
    if len({window.cluster for window in cut}) < 2:
        raise QuantlabError(f"the text is too short: an error bar needs two windows of {context} tokens; add to it")
    passport = Passport(
        tokenizer=tokenizer_hash(tokenizer, folder),
        text=text_hash(texts),
        context=context,
        stride=room,
        bos=bool(bos),
        tokens=sum(len(window.tokens) - 1 for window in cut),
    )
    return Windows(tuple(cut), passport)
