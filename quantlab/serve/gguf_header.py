"""What a GGUF file says about itself, read before anything is started with it.

    GGUF | version u32 | tensors u64 | pairs u64 | pairs: key, type u32, value | tensor infos | data

A text is a length u64 and that many bytes; an array is an element type u32, a count u64 and the elements. Every read is
checked against the end of the file, so a cut or crafted file ends in a sentence and never in an endless loop.

Source: docs/gguf.md of ggml (versions 2 and 3, little-endian). Left out: version 1, big-endian files, the tensors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quantlab.errors import QuantlabError

Value = int | float | bool | str | None

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_MOST_PAIRS = 100_000  # real files have about forty


@dataclass(frozen=True)
class GgufHeader:
    """The metadata of a model file; arrays (the vocabulary) are skipped and read as None."""

    metadata: dict[str, Value]

    @property
    def window(self) -> int | None:
        """Tokens that the model was trained to see at once."""
        found = self.metadata.get(f"{self.metadata.get('general.architecture')}.context_length")
        return found if isinstance(found, int) and found > 0 else None

    @property
    def has_chat_template(self) -> bool:
        """Whether the model was trained to hold a conversation; a base model only continues text."""
        return isinstance(self.metadata.get("tokenizer.chat_template"), str)


class _BrokenError(Exception):
    """The bytes are not what the format promises."""


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def take(self, nbytes: int) -> bytes:
        if nbytes > self.size - self.file.tell():
            raise _BrokenError("it ends too early")
        return self.file.read(nbytes)

    def scalar(self, code: str) -> Value:
        value: Value = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def count(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self) -> str:
        return self.take(self.count()).decode("utf-8", errors="replace")

    def kind(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def value(self) -> Value:
        kind = self.kind()
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            self.skip_array()
            return None
        if kind not in _SCALARS:
            raise _BrokenError(f"a value has the unknown type {kind}")
        return self.scalar(_SCALARS[kind])

    def skip_array(self) -> None:
        kind, count = self.kind(), self.count()
        if kind in _SCALARS:
            self.take(count * struct.calcsize(f"<{_SCALARS[kind]}"))
        elif kind == _TEXT:
            for _ in range(count):  # ends with the file: every text takes at least its 8 bytes of length
                self.take(self.count())
        else:
            raise _BrokenError(f"an array has elements of the unknown type {kind}")


def read_gguf_header(path: Path) -> GgufHeader:
    """The metadata of a GGUF file; raises `QuantlabError` for a file that is missing, cut off or not GGUF."""
    try:
        with path.open("rb") as file:
            return GgufHeader(dict(_pairs(_Reader(file, path.stat().st_size))))
    except OSError as error:
        raise QuantlabError(f"cannot read {path}: {error.strerror}; check the path") from error
    except _BrokenError as error:
        raise QuantlabError(f"{path} is not a usable GGUF file: {error}; download or convert it again") from error


def _pairs(reader: _Reader) -> list[tuple[str, Value]]:
    if reader.take(4) != b"GGUF":
        raise _BrokenError("it does not begin with GGUF")
    if (version := reader.kind()) not in (2, 3):
        raise _BrokenError(f"its version is {version}, not 2 or 3")
    reader.count()  # tensors
    if (pairs := reader.count()) > _MOST_PAIRS:
        raise _BrokenError(f"it claims {pairs:,} metadata entries")
    return [(reader.text(), reader.value()) for _ in range(pairs)]
