"""A perplexity's passport: without it, the number means nothing.

The same Llama-2-7B has four published perplexities on the same WikiText-2, from 5.12 to 8.71: other tokenizer, context,
stride, BOS. Two perplexities may be compared when all six entries agree, and only then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError

_WORDS = {
    "tokenizer": "tokenizer",
    "text": "text",
    "context": "context length",
    "stride": "stride",
    "bos": "use of a BOS token",
    "tokens": "number of scored tokens",
}


@dataclass(frozen=True)
class Passport:
    """What a perplexity was measured on, and how."""

    tokenizer: str  # sha256 of tokenizer.json, or of the sorted vocabulary where there is no such file
    text: str  # sha256 of the texts, a zero byte between them
    context: int  # most tokens that a prediction can look back on, BOS included
    stride: int  # tokens from the start of one window to the start of the next
    bos: bool  # whether each window starts with the BOS token
    tokens: int  # scored predictions

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def require_same(a: Passport, b: Passport) -> None:
    """Raise QuantlabError naming the first entry in which two passports differ."""
    for field in fields(Passport):
        ours, theirs = getattr(a, field.name), getattr(b, field.name)
        if ours != theirs:
            raise QuantlabError(
                f"these perplexities cannot be compared: the {_WORDS[field.name]} differs "
                f"({_short(ours)} and {_short(theirs)}); measure both in the same way"
            )


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) else str(value)


def text_hash(texts: Iterable[str]) -> str:
    """sha256 of the texts in their order, a zero byte between them."""
    return hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest()


def tokenizer_hash(tokenizer: Any, folder: Path) -> str:
    """sha256 of the folder's tokenizer.json, as `sha256sum` prints it; of the sorted vocabulary where there is none."""
    path = folder / "tokenizer.json"
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return hashlib.sha256(repr(vocabulary).encode("utf-8")).hexdigest()
