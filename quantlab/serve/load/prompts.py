"""What a load test asks: texts of a file, or made ones of an exact number of tokens.

Made prompts are pieces of the bundled stories, cut to so many tokens of a tokenizer and read back: where decoding and
encoding again gives another number, the piece begins one token later. Every prompt begins elsewhere, so that a server's
prefix cache finds nothing, unless `shared` tokens at the beginning are wanted the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantlab.errors import QuantlabError, UsageError
from quantlab.models.samples import stories


def of_file(path: Path) -> list[str]:
    """The prompts of a .jsonl file ({"prompt": ...} or {"text": ...} a line), or each line of another text file."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise QuantlabError(f"cannot read the prompts {path} ({error}); give a UTF-8 .txt or .jsonl file") from error
    if not lines:
        raise QuantlabError(f"the file of prompts {path} is empty; put a prompt on each line")
    if path.suffix != ".jsonl":
        return lines
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            found.append(str(entry["prompt"] if "prompt" in entry else entry["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise QuantlabError(f'line {number} of {path} is not {{"prompt": "..."}}; mend that line') from error
    return found


def made(tokenizer: Any, count: int, tokens: int, shared: int = 0) -> list[str]:
    """`count` prompts of exactly `tokens` tokens each (without BOS), the first `shared` of them the same in all.

    Raises UsageError where the tokenizer cannot cut the stories so (which no known one fails at).
    """
    if not 1 <= tokens <= 100_000 or not 0 <= shared < tokens or count < 1:
        raise UsageError(f"prompts need 1 to 100,000 tokens, fewer of them shared; got {tokens} and {shared}")
    ids: list[int] = tokenizer("\n\n".join(stories()), add_special_tokens=False)["input_ids"]
    stream = ids * (-(-(tokens + 2) // len(ids)) + 1)
    head = _exact(tokenizer, stream, 0, shared) if shared else ""
    step = max(1, len(ids) // count)
    return [_joined(tokenizer, head, stream, number * step % len(ids), tokens) for number in range(count)]


def _length(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _joined(tokenizer: Any, head: str, stream: list[int], start: int, tokens: int) -> str:
    """The head, then as many tokens from `start` as are missing."""
    missing = tokens - (_length(tokenizer, head) if head else 0)
    for at in range(start, start + 64):
        for length in (missing, missing + 1, missing - 1, missing + 2):  # where head and tail meet a token may join
            text: str = head + tokenizer.decode(stream[at : at + length])
            if length > 0 and _length(tokenizer, text) == tokens:
                return text
    raise UsageError(f"this tokenizer does not cut the stories into {tokens} tokens; give prompts of your own")


def _exact(tokenizer: Any, stream: list[int], start: int, tokens: int) -> str:
    return _joined(tokenizer, "", stream, start, tokens)
