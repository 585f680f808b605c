"""The metadata of a GGUF file: keys with typed values, arrays within arrays included.

Scalars and short arrays are kept; of long ones, the vocabulary above all, only type and length.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from rbee_runtime.models.cursor import MAX_TEXT, Cursor

MAX_KEY = 65535
"""Bytes, by the specification."""

MAX_DEPTH = 4
MAX_NESTED = 1 << 16
"""Arrays within arrays; no published model has one and llama.cpp refuses them."""

MAX_STRINGS = 1 << 21
"""Strings in all arrays of a file: the time of stepping over them is what a hostile header can ask for."""

KEPT_ITEMS = 1024
"""Longest array that is kept; those that matter have one item per layer."""

MAX_KEPT = 1 << 18
"""Items in all kept arrays of a file; later arrays are stepped over."""


class ValueType(IntEnum):
    """The types of metadata values, with the specification's numbers."""

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


_CODES = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
_SCALARS = {kind: struct.Struct(f"<{code}") for kind, code in _CODES.items()}
_TYPE = struct.Struct("<I")
_ARRAY = struct.Struct("<IQ")


@dataclass(frozen=True, slots=True)
class Array:
    """An array value of `count` items; `items` is None where there were too many to keep."""

    kind: ValueType
    count: int
    items: "tuple[Value, ...] | None"


Value = bool | int | float | str | Array


class ValueReader:
    """Reads values at the cursor within the bounds that hold for the whole file."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._strings = MAX_STRINGS
        self._nested = MAX_NESTED
        self._keep = MAX_KEPT

    def entry(self) -> tuple[str, Value]:
        """Return the next key and its value."""
        key = self._cursor.text(MAX_KEY, "a metadata key")
        if not key or not key.isprintable() or "\ufffd" in key:
            raise self._cursor.bad(f"is damaged: {key[:40]!r} is not a metadata key")
        return key, self._value(self._kind(self._cursor.number(_TYPE), key), key)

    def _kind(self, number: int, key: str) -> ValueType:
        try:
            return ValueType(number)
        except ValueError:
            raise self._cursor.bad(f"is damaged: {key[:80]} has the unknown value type {number}") from None

    def _value(self, kind: ValueType, key: str) -> Value:
        if kind is ValueType.STRING:
            return self._cursor.text(MAX_TEXT, key[:80])
        if kind is ValueType.ARRAY:
            return self._array(key, 1)
        (value,) = self._cursor.take(_SCALARS[kind])
        return self._truth(int(value), key) if kind is ValueType.BOOL else value

    def _truth(self, value: int, key: str) -> bool:
        if value > 1:
            raise self._cursor.bad(f"is damaged: {key[:80]} is a truth value of {value}")
        return bool(value)

    def _array(self, key: str, depth: int) -> Array:
        if depth > MAX_DEPTH:
            raise self._cursor.bad(f"is damaged: {key[:80]} nests arrays more than {MAX_DEPTH} deep")
        kind_number, length = self._cursor.take(_ARRAY)
        kind, count = self._kind(int(kind_number), key), int(length)
        keep = count <= min(KEPT_ITEMS, self._keep)
        self._keep -= count if keep else 0
        if kind is ValueType.ARRAY:
            return Array(kind, count, self._arrays(key, count, depth, keep=keep))
        if kind is ValueType.STRING:
            return Array(kind, count, self._texts(key, count, keep=keep))
        return Array(kind, count, self._numbers(kind, key, count, keep=keep))

    def _arrays(self, key: str, count: int, depth: int, *, keep: bool) -> tuple[Value, ...] | None:
        self._nested -= count
        if self._nested < 0:
            raise self._cursor.bad(f"is damaged: {key[:80]} holds more than {MAX_NESTED} arrays")
        if keep:
            return tuple([self._array(key, depth + 1) for _ in range(count)])
        for _ in range(count):
            self._array(key, depth + 1)
        return None

    def _texts(self, key: str, count: int, *, keep: bool) -> tuple[Value, ...] | None:
        self._strings -= count
        if self._strings < 0:
            raise self._cursor.bad(f"is damaged: {key[:80]} brings its strings to more than {MAX_STRINGS}")
        if keep:
            return tuple([self._cursor.text(MAX_TEXT, key[:80]) for _ in range(count)])
        self._cursor.skip_texts(count)
        return None

    def _numbers(self, kind: ValueType, key: str, count: int, *, keep: bool) -> tuple[Value, ...] | None:
        code = _CODES[kind]
        if not keep:
            self._cursor.skip(count * _SCALARS[kind].size)
            return None
        values = self._cursor.take(struct.Struct(f"<{count}{code}"))
        return tuple([self._truth(int(v), key) for v in values]) if kind is ValueType.BOOL else values
