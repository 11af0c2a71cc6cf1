"""A SentencePiece vocabulary, of Llama 2 and Mistral 7B, as GGUF's tokenizer "llama".

No word is cut out first and bytes have no letters of their own. A space is written as U+2581, one is put before the
text, and from single characters the pair is joined that makes the piece of the *highest score*, again and again; what
is in no piece ends as bytes, `<0xE6>` and so on.

tokenizer.json writes the same algorithm as a BPE with `byte_fallback`: its merges are in the order of falling scores.
So the scores can be had back up to what matters, their order: of the pieces in the order in which merges first make
them, the i-th gets -i. Single characters, which no merge makes, follow.

Where llama.cpp cuts otherwise, all the same: where a tokenizer puts the space before the first word of a text only
(`prepend_scheme` "first"), llama.cpp also puts one after each special token.

Reference: llama.cpp, src/llama-vocab.cpp (`llm_tokenizer_spm`), release of llama-cpp-python 0.3.36; transformers 5.17,
convert_slow_tokenizer.py (`generate_merges`). llama.cpp's converter takes the scores from tokenizer.model, and without
that file writes -1000 for all.
"""

from __future__ import annotations

import re
from typing import Any

from gguf import TokenType

from quantlab.errors import QuantlabError

SPACE = "\u2581"
_ADDED = -1000.0  # the score of tokens that are matched before anything is joined; llama.cpp's converter writes it
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_sentencepiece(model: dict[str, Any]) -> bool:
    """Whether the `model` of a tokenizer.json is a SentencePiece vocabulary."""
    return bool(model.get("byte_fallback"))


def read_pieces(model: dict[str, Any], tokens: list[str], types: list[int]) -> tuple[list[int], list[float]]:
    """Types and scores by id, given the tokens and their types as a byte-level BPE would have them."""
    kinds = list(types)
    for i, token in enumerate(tokens):
        if types[i] == TokenType.NORMAL and _BYTE.fullmatch(token):
            kinds[i] = TokenType.BYTE
        elif types[i] == TokenType.NORMAL and token == model.get("unk_token"):
            kinds[i] = TokenType.UNKNOWN
    made = ("".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"])
    order = dict.fromkeys(made)
    order |= dict.fromkeys(token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.NORMAL)
    rank = {piece: float(-i) for i, piece in enumerate(order)}
    scores = [
        rank[token] if kind == TokenType.NORMAL else 0.0 if kind in (TokenType.BYTE, TokenType.UNKNOWN) else _ADDED
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    return [int(kind) for kind in kinds], scores


def has_space_prefix(whole: dict[str, Any], where: str) -> bool:
    """Whether a space is put before a text; raises QuantlabError for a tokenizer.json that treats spaces otherwise."""
    normalizer, cutter = whole.get("normalizer"), whole.get("pre_tokenizer") or {}
    if normalizer is None and cutter.get("type") == "Metaspace":
        if cutter["replacement"] == SPACE and cutter.get("split") is False:
            return bool(cutter.get("prepend_scheme", "always") != "never")
    elif normalizer is not None and not cutter:
        steps = normalizer.get("normalizers", [normalizer])
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        if steps[-1] == spaces and steps[:-1] in ([], [{"type": "Prepend", "prepend": SPACE}]):
            return len(steps) == 2
    raise QuantlabError(
        f"{where} treats spaces in a way that GGUF's SentencePiece tokenizer cannot; use another format"
    )
