"""The first look at a model file: is it a GGUF at all, before any engine parses it.

Layout (the GGUF specification): magic `GGUF`, version as uint32, tensor count and metadata count as uint64, then the
metadata. Little-endian; a big-endian file shows as a version of which only the high byte is set.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from rbee_runtime.errors import ModelStoreError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Version 1 had 32-bit counts and is refused by the engines as well."""

MAX_TENSORS = 1 << 20
MAX_METADATA = 1 << 20
"""Far above any real model; a damaged or hostile header asks for billions."""

_HEADER = struct.Struct("<4sIQQ")
_SMALLEST_TENSOR = 24
_SMALLEST_METADATA = 13
"""Bytes that one entry takes at least: what the counts promise must fit in the file."""


@dataclass(frozen=True)
class GgufHeader:
    """The fixed part of a GGUF file."""

    version: int
    tensors: int
    metadata: int


def read_header(path: Path) -> GgufHeader:
    """Return the fixed header of the file at `path` or raise ModelStoreError saying why it is not a GGUF model."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
    except OSError as error:
        raise ModelStoreError(f"cannot read the model file {path}: {error.strerror}") from error
    if head[:4] != MAGIC:
        raise ModelStoreError(f"{path} is not a GGUF model: it starts with {head[:4]!r} instead of {MAGIC!r}")
    if len(head) < _HEADER.size:
        raise ModelStoreError(f"{path} is cut off after {len(head)} bytes; fetch the model again")
    _, version, tensors, metadata = _HEADER.unpack(head)
    header = GgufHeader(version, tensors, metadata)
    _check(header, size, path)
    return header


def _check(header: GgufHeader, size: int, path: Path) -> None:
    if header.version & 0xFFFF == 0:
        raise ModelStoreError(f"{path} is a big-endian GGUF model; only little-endian files are served")
    if header.version not in VERSIONS:
        raise ModelStoreError(f"{path} is GGUF version {header.version}; versions 2 and 3 are served")
    if not 0 < header.tensors <= MAX_TENSORS or not 0 < header.metadata <= MAX_METADATA:
        raise ModelStoreError(
            f"{path} is damaged: its header names {header.tensors} tensors and {header.metadata} metadata entries"
        )
    least = _HEADER.size + header.tensors * _SMALLEST_TENSOR + header.metadata * _SMALLEST_METADATA
    if size < least:
        raise ModelStoreError(
            f"{path} is cut off: {size} bytes, but its header alone needs {least}; fetch the model again"
        )
