"""The metadata of a GGUF file: thirteen types of value, written and read with every length checked.

    text     length u64, then that many bytes of UTF-8
    array    type of the elements u32, count u64, then the elements; arrays may lie in arrays
    others   a number as in C, little-endian

Metadata is what strangers send us. A length or a count is only a claim: `Source.take` compares it with what is left of
the file before anything is read, `Source.spend` with a budget of values, and arrays nest `DEPTH` deep at most. So a
crafted file ends at once in one sentence, never in an endless loop or a list of a billion zeros.

Reference: ggml's docs/gguf.md, version 3; gguf 0.19, `GGUFWriter._pack_val` (which guesses types as `typed` does).
Left out: big-endian files.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, BinaryIO

from quantlab.errors import QuantlabError

DEPTH = 4  # arrays in arrays; real files have none
MOST_VALUES = 2**24  # in one file; a vocabulary has some hundred thousand


class Kind(IntEnum):
    """The types of metadata, by their numbers in the file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_CODE = dict(zip(Kind, "BbHhIif?..Qqd", strict=True))  # as the struct module names them


@dataclass(frozen=True)
class Value:
    """A value and its type; the items of an array share the type `items`, and are Values where they are arrays."""

    kind: Kind
    value: Any
    items: Kind | None = None

    @property
    def plain(self) -> Any:
        """The value as Python has it: a number, a string, a list.

        >>> Value(Kind.ARRAY, [typed([1, 2]), typed([3])], Kind.ARRAY).plain
        [[1, 2], [3]]
        """
        return [item.plain for item in self.value] if self.items is Kind.ARRAY else self.value


def typed(value: Any) -> Value:
    """A Python value with the type that the gguf package would give it: int32, float32, bool, string or an array.

    >>> typed([1.5, 2.5])
    Value(kind=<Kind.ARRAY: 9>, value=[1.5, 2.5], items=<Kind.FLOAT32: 6>)
    """
    if isinstance(value, Value):
        return value
    for of, kind in ((bool, Kind.BOOL), (int, Kind.INT32), (float, Kind.FLOAT32), (str, Kind.STRING)):
        if isinstance(value, of):
            return Value(kind, value)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"GGUF metadata cannot hold {value!r}; give a number, text, a list that is not empty, a Value")
    items = [typed(item) for item in value]
    if len({item.kind for item in items}) > 1:
        raise ValueError(f"the items of a GGUF array must share one type, got {value!r}")
    nested = items[0].kind is Kind.ARRAY
    return Value(Kind.ARRAY, items if nested else list(value), items[0].kind)


def text_bytes(text: str) -> bytes:
    """Length and bytes of a text. Bytes that are no UTF-8 pass through as Python's surrogates.

    >>> text_bytes("k").hex(" ")
    '01 00 00 00 00 00 00 00 6b'
    """
    encoded = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(encoded)) + encoded


def value_bytes(value: Value, depth: int = 0) -> bytes:
    """The bytes of a value without its own type; raises ValueError where it does not fit the type."""
    if value.kind is Kind.STRING:
        return text_bytes(value.value)
    if value.kind is not Kind.ARRAY:
        return _numbers(value.kind, [value.value])
    assert value.items is not None
    if depth == DEPTH:
        raise ValueError(f"GGUF arrays nest {DEPTH} deep at most here; flatten them")
    head = struct.pack("<IQ", value.items, len(value.value))
    if value.items is Kind.STRING:
        return head + b"".join(map(text_bytes, value.value))
    if value.items is Kind.ARRAY:
        return head + b"".join(value_bytes(item, depth + 1) for item in value.value)
    return head + _numbers(value.items, value.value)


def _numbers(kind: Kind, numbers: list[Any]) -> bytes:
    try:
        return struct.pack(f"<{len(numbers)}{_CODE[kind]}", *numbers)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"a value does not fit GGUF's {kind.name.lower()}: {error}; take a wider type") from error


class Source:
    """A file that is read front to back, never beyond its end and never more than `MOST_VALUES` values."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left, self.values_left = file, size, MOST_VALUES

    def take(self, nbytes: int) -> bytes:
        """The next bytes; raises QuantlabError where the file does not hold as many."""
        if nbytes > self.left:
            raise QuantlabError(f"it claims {nbytes:,} bytes more, where {self.left:,} are left")
        self.left -= nbytes
        taken = self.file.read(nbytes)
        if len(taken) < nbytes:
            raise QuantlabError("it became shorter while it was read")
        return taken

    def spend(self, values: int, least: int) -> int:
        """`values`, if as many of at least `least` bytes can follow and the budget allows it."""
        if values * least > self.left:
            raise QuantlabError(f"it claims {values:,} entries more, where {self.left:,} bytes are left")
        if values > self.values_left:
            raise QuantlabError(f"it claims more than {MOST_VALUES:,} values of metadata")
        self.values_left -= values
        return values

    def u32(self) -> int:
        """An unsigned number of 4 bytes."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """An unsigned number of 8 bytes."""
        return int.from_bytes(self.take(8), "little")

    def text(self) -> str:
        """A length and that many bytes."""
        return self.take(self.u64()).decode("utf-8", "surrogateescape")

    def kind(self) -> Kind:
        """The type of what follows."""
        if (number := self.u32()) not in _CODE:
            raise QuantlabError(f"a value has the unknown type {number}")
        return Kind(number)

    def value(self, kind: Kind, depth: int = 0) -> Value:
        """The value of that type that comes next."""
        if kind is Kind.STRING:
            return Value(kind, self.text())
        if kind is not Kind.ARRAY:
            return Value(kind, self._numbers(kind, 1)[0])
        if depth == DEPTH:
            raise QuantlabError(f"its arrays nest more than {DEPTH} deep")
        items, count = self.kind(), self.u64()
        if items is Kind.STRING:
            return Value(kind, [self.text() for _ in range(self.spend(count, 8))], items)
        if items is Kind.ARRAY:
            return Value(kind, [self.value(items, depth + 1) for _ in range(self.spend(count, 12))], items)
        return Value(kind, self._numbers(items, count), items)

    def _numbers(self, kind: Kind, count: int) -> list[Any]:
        size = struct.calcsize(_CODE[kind])
        self.spend(count, size)
        return list(struct.unpack(f"<{count}{_CODE[kind]}", self.take(count * size)))
