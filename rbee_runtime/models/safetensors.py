"""The header of a safetensors file: which tensors it holds, and that they fill the file exactly.

Layout (the format's specification): the header's length as uint64, the header as a JSON object
`{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {…strings…}}`, then the data, which the
tensors cover without holes or overlaps. The header is taken apart piece by piece, so that a hostile one of millions of
values never becomes Python objects.
"""

import math
import os
import re
import struct
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import msgspec

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.bounded_json import STRING, TextPairs, name_of

FORMAT_LIMIT = 100_000_000
"""Bytes of header, by the specification."""

MAX_HEADER = 32 << 20
"""Bytes of header that are read; MAX_TENSORS with long names take 16 MiB."""

MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 8
MAX_ELEMENTS = (1 << 63) - 1

_TYPES = {
    4: ("F4",),
    6: ("F6_E2M3", "F6_E3M2"),
    8: ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    16: ("I16", "U16", "F16", "BF16"),
    32: ("I32", "U32", "F32"),
    64: ("I64", "U64", "F64", "C64"),
}
BITS = {name: bits for bits, names in _TYPES.items() for name in names}
"""Bits per element, by the format's type names."""

_LENGTH = struct.Struct("<Q")
_KEY = re.compile(rb"[ \t\r\n]*" + STRING + rb"[ \t\r\n]*:[ \t\r\n]*\{")
_BODY = re.compile(rb"([^{}]{0,1024}+)\}")
_NEXT = re.compile(rb"[ \t\r\n]*([,}])")
_OPEN = re.compile(rb"\{[ \t\r\n]*(\})?")
_END = re.compile(rb"[ \t\r\n]*\Z")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in bytes `begin` to `end` of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Return its bytes."""
        return self.end - self.begin

    @property
    def elements(self) -> int:
        """Return how many elements are stored."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked header; `size` is the file's bytes."""

    name: str
    tensors: tuple[Tensor, ...]
    size: int


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


_DECODER = msgspec.json.Decoder(_Entry)


def read(path: Path, name: str = "") -> SafetensorsFile:
    """Return the header of the safetensors file at `path`, called `name` in errors, or raise ModelFormatError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = _header(file, size, name or str(path))
    except OSError as error:
        raise ModelFormatError(f"cannot read the model file {name or path}: {error.strerror}") from error
    tensors = _Header(header, name or str(path)).tensors()
    _check_layout(name or str(path), tensors, size - _LENGTH.size - len(header))
    return SafetensorsFile(name or str(path), tensors, size)


def _header(file: BinaryIO, size: int, name: str) -> bytes:
    prefix = file.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        raise ModelFormatError(f"{name} is cut off after {size} bytes; fetch it again")
    (length,) = _LENGTH.unpack(prefix)
    if length > FORMAT_LIMIT:
        raise ModelFormatError(
            f"{name} is not a safetensors model: its first 8 bytes announce a header of {length} bytes"
        )
    if length > size - _LENGTH.size:
        raise ModelFormatError(
            f"{name} is cut off: {size} bytes, but its header goes on to byte {length + _LENGTH.size}; fetch it again"
        )
    if length > MAX_HEADER:
        raise ModelFormatError(f"{name} has a header of {length} bytes, at most {MAX_HEADER} are read")
    header = file.read(length)
    if len(header) < length:
        raise ModelFormatError(f"{name} became shorter while it was read")
    return header


class _Header:
    """The JSON text of a header, read from its beginning to its end."""

    def __init__(self, text: bytes, name: str) -> None:
        self._text = text
        self._name = name
        self._at = 0

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors in the header's order."""
        found: dict[str, Tensor | None] = {}
        empty = self._expect(_OPEN, "does not begin with {")[1]
        while not empty:
            key = name_of(self._expect(_KEY, "has no tensor")[1], self._name)
            if key in found:
                raise self._bad(f"{key!r} is there twice")
            if key == "__metadata__":
                self._skip_metadata()
            found[key] = self._tensor(key) if key != "__metadata__" else None
            if len(found) > MAX_TENSORS:
                raise self._bad(f"it names more than {MAX_TENSORS} tensors")
            empty = self._expect(_NEXT, "goes on wrongly")[1] == b"}"
        self._expect(_END, "goes on behind its end")
        return tuple(tensor for tensor in found.values() if tensor is not None)

    def _skip_metadata(self) -> None:
        pairs = TextPairs(self._text, self._at, self._name, MAX_TENSORS)
        seen: set[bytes] = set()
        for key, _ in pairs:
            if key in seen:
                raise self._bad(f"metadata {key[:80]!r} is there twice")
            seen.add(key)
        self._at = pairs.end

    def _tensor(self, name: str) -> Tensor:
        body = self._expect(_BODY, f"ends within tensor {name}")[1]
        # Three keys and the type are four strings; with more quotes a key is there twice.
        try:
            entry = _DECODER.decode(b"{" + body + b"}") if body.count(b'"') == 8 else None
        except (msgspec.MsgspecError, ValueError):
            entry = None
        if entry is None:
            raise self._bad(f"tensor {name} is not described by dtype, shape and data_offsets")
        fault = _fault(entry)
        if fault is not None:
            raise self._bad(f"tensor {name} {fault}")
        return Tensor(name, entry.dtype, tuple(entry.shape), *entry.data_offsets)

    def _expect(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise self._bad(f"its header {what} at byte {self._at}")
        self._at = match.end()
        return match

    def _bad(self, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self._name} is damaged: {what}")


def _fault(entry: _Entry) -> str | None:
    """Return what is impossible about a tensor, or None."""
    bits = BITS.get(entry.dtype)
    if bits is None:
        return f"has the unknown type {entry.dtype[:40]!r}; it needs a newer rbee or was damaged"
    begin, end = entry.data_offsets
    elements = math.prod(entry.shape) if len(entry.shape) <= MAX_DIMENSIONS else -1
    if min(entry.shape, default=0) < 0 or not 0 <= elements <= MAX_ELEMENTS or not 0 <= begin <= end <= MAX_ELEMENTS:
        return "has an impossible shape or place"
    if elements * bits != (end - begin) * 8:
        return f"has {elements} elements of {bits} bits, but {end - begin} bytes"
    return None


def _check_layout(name: str, tensors: tuple[Tensor, ...], data: int) -> None:
    """Raise ModelFormatError unless the tensors fill the `data` bytes behind the header exactly."""
    end, before = 0, "the header"
    for tensor in sorted(tensors, key=attrgetter("begin", "end")):
        if tensor.begin < end:
            raise ModelFormatError(f"{name} is damaged: tensors {before} and {tensor.name} overlap")
        if tensor.begin > end:
            raise ModelFormatError(f"{name} is damaged: there is a hole before tensor {tensor.name}")
        end, before = tensor.end, tensor.name
    if end > data:
        raise ModelFormatError(f"{name} is cut off: {data} bytes of data, but its tensors take {end}; fetch it again")
    if end < data:
        raise ModelFormatError(f"{name} is damaged: {data - end} bytes behind its last tensor belong to none")
