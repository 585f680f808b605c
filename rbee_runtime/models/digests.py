"""Hashes of whole files, which take minutes: read in blocks, and ended between two of them when the process ends."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

from rbee_runtime.errors import ModelStoreError

BLOCK_BYTES = 4 * 1024 * 1024

_DIGITS = frozenset("0123456789abcdef")


def is_sha256(text: str) -> bool:
    """Say whether `text` is a hash as it stands in manifests and names of blobs: 64 lower-case hex digits."""
    return len(text) == 64 and _DIGITS.issuperset(text)


def blocks(path: Path, halted: threading.Event) -> Iterator[bytes]:
    """Yield a file's content; OSError if it cannot be read, ModelStoreError once `halted`."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            if halted.is_set():
                raise ModelStoreError(f"{path} is not read to its end, because the hive ends; ask again")
            yield block


def sha256(path: Path, halted: threading.Event) -> str:
    """Return the hash of a file's content; errors as of `blocks`."""
    digest = hashlib.sha256()
    for block in blocks(path, halted):
        digest.update(block)
    return digest.hexdigest()
