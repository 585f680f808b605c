"""The header of a GGUF file, read and checked before any engine parses it.

Layout (the GGUF specification): magic `GGUF`, version as uint32, tensor count and metadata count as uint64, the
metadata, the descriptions of the tensors, and from the next multiple of the alignment their data. Little-endian; a
big-endian file shows as a version of which only the high bytes are set.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.cursor import Cursor
from rbee_runtime.models.gguf_tensors import Tensor, check_layout, read_tensor
from rbee_runtime.models.gguf_values import Value, ValueReader

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Version 1 had 32-bit counts and is refused by the engines as well."""

MAX_TENSORS = 1 << 16
MAX_METADATA = 1 << 16
"""Far above any real model; a damaged or hostile header asks for billions."""

DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 64 << 10

_HEADER = struct.Struct("<4sIQQ")
_SMALLEST_TENSOR = 24
_SMALLEST_METADATA = 13
"""Bytes that one entry takes at least: what the counts promise must fit in the file."""


@dataclass(frozen=True)
class GgufFile:
    """A checked header; `size` is the file's bytes, `data` where its tensors begin."""

    name: str
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    alignment: int
    data: int
    size: int

    @property
    def tensor_bytes(self) -> int:
        """Return the bytes of all tensors, without padding."""
        return sum(tensor.size for tensor in self.tensors)


def read(path: Path, name: str = "") -> GgufFile:
    """Return the header of the GGUF file at `path`, called `name` in errors, or raise ModelFormatError."""
    try:
        with path.open("rb", buffering=0) as file:
            return _read(file, os.fstat(file.fileno()).st_size, name or str(path))
    except OSError as error:
        raise ModelFormatError(f"cannot read the model file {name or path}: {error.strerror}") from error


def _read(file: BinaryIO, size: int, name: str) -> GgufFile:
    cursor = Cursor(file, size, name)
    version, tensor_count, metadata_count = _fixed_part(cursor, file, size)
    metadata = _metadata(cursor, metadata_count)
    alignment = _alignment(cursor, metadata)
    tensors = _tensors(cursor, tensor_count)
    data = -(-cursor.position // alignment) * alignment
    check_layout(cursor, tensors, data=data, size=size, alignment=alignment)
    return GgufFile(name, version, metadata, tensors, alignment, data, size)


def _fixed_part(cursor: Cursor, file: BinaryIO, size: int) -> tuple[int, int, int]:
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise cursor.bad(f"is not a GGUF model: it starts with {magic!r} instead of {MAGIC!r}")
    if size < _HEADER.size:
        raise cursor.bad(f"is cut off after {size} bytes; fetch it again")
    version, tensors, metadata = (int(value) for value in cursor.take(_HEADER)[1:])
    if version & 0xFFFF == 0 and version:
        raise cursor.bad("is a big-endian GGUF model; only little-endian files are served")
    if version not in VERSIONS:
        raise cursor.bad(f"is GGUF version {version}; versions 2 and 3 are served")
    if tensors > MAX_TENSORS or not 0 < metadata <= MAX_METADATA:
        raise cursor.bad(f"is damaged: its header names {tensors} tensors and {metadata} metadata entries")
    least = _HEADER.size + tensors * _SMALLEST_TENSOR + metadata * _SMALLEST_METADATA
    if size < least:
        raise cursor.bad(f"is cut off: {size} bytes, but its header alone needs {least}; fetch it again")
    return version, tensors, metadata


def _metadata(cursor: Cursor, count: int) -> dict[str, Value]:
    values = ValueReader(cursor)
    metadata: dict[str, Value] = {}
    for _ in range(count):
        key, value = values.entry()
        if key in metadata:
            raise cursor.bad(f"is damaged: {key[:80]} is there twice")
        metadata[key] = value
    return metadata


def _tensors(cursor: Cursor, count: int) -> tuple[Tensor, ...]:
    tensors = {}
    for _ in range(count):
        tensor = read_tensor(cursor)
        if tensor.name in tensors:
            raise cursor.bad(f"is damaged: tensor {tensor.name} is there twice")
        tensors[tensor.name] = tensor
    return tuple(tensors.values())


def _alignment(cursor: Cursor, metadata: Mapping[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise cursor.bad(f"is damaged: its alignment is {str(value)[:40]}, not a power of two up to {MAX_ALIGNMENT}")
    return value
