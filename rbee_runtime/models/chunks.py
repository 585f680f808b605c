"""What a hive serves of its blobs to other hives: hashes of equal parts, made once per blob, and the bytes."""

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec

from rbee_runtime import durable
from rbee_runtime.errors import ModelStoreError, ReferenceFormError, StateError
from rbee_runtime.models.digests import BLOCK_BYTES, blocks, is_sha256
from rbee_runtime.models.layout import Layout, sentences
from rbee_runtime.protocol import decode

CHUNK_BYTES = BLOCK_BYTES
"""Small enough to be checked in memory before any of it reaches the disk."""

MAX_TABLE_BYTES = 64 * 1024 * 1024
"""Of a file of 4 TiB; a peer that sends more is not asked again."""

_PREFIX = "sha256-"


class ChunkTable(msgspec.Struct, frozen=True, kw_only=True):
    """Size of a blob and of its chunks in bytes (the last one is shorter), and the chunks' hashes in order."""

    size: int
    chunk: int
    sha256s: tuple[str, ...]


class BlobServer:
    """Serves the blobs of one store; two callers that ask for the same table wait for one reading of the blob."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._threads = layout.threads
        self._making: dict[str, asyncio.Task[ChunkTable]] = {}

    def path(self, blob: str) -> Path:
        """Return the file of `sha256-<hex>`; ReferenceFormError for any other name, ModelStoreError if not there."""
        path = self._layout.blob(_hex(blob))
        if not path.is_file():
            raise ModelStoreError(f"{blob} is not in the store")
        return path

    async def table(self, blob: str) -> ChunkTable:
        """Return the chunk table, made now if need be (about a second per GB); ModelStoreError if the blob is bad."""
        if blob not in self._making:
            self._making[blob] = asyncio.create_task(self._made(blob))
            self._making[blob].add_done_callback(lambda _: self._making.pop(blob, None))
        return await asyncio.shield(self._making[blob])

    async def _made(self, blob: str) -> ChunkTable:
        found = await self._threads.work.run(self._found, blob)
        return found if found is not None else await self._threads.hashing.run(self._table, blob)

    async def read(self, blob: str, *, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield bytes [start, end) of a blob in blocks of at most a chunk."""
        while end is None or start < end:
            most = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - start)
            # Opened for each block: nothing is held while a slow reader takes it, nor if it never asks for the next.
            block = await self._threads.work.run(self._part, blob, start, most)
            if not block:
                return
            start += len(block)
            yield block

    def _part(self, blob: str, start: int, most: int) -> bytes:
        path = self.path(blob)
        with sentences(f"cannot read {path}"), path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), most, start)

    def _found(self, blob: str) -> ChunkTable | None:
        return _kept(self._layout.chunks / f"{blob}.json", self.path(blob))

    def _table(self, blob: str) -> ChunkTable:
        path, kept = self.path(blob), self._layout.chunks / f"{blob}.json"
        found = _kept(kept, path)
        if found is None:
            found = make(path, _hex(blob), self._threads.halted)
            with contextlib.suppress(StateError):
                durable.write(kept, msgspec.json.encode(found))
        return found


def make(path: Path, sha256: str, halted: threading.Event) -> ChunkTable:
    """Return the table of a blob; ModelStoreError if its content is not what its name says, or once `halted`."""
    whole, parts, size = hashlib.sha256(), [], 0
    with sentences(f"cannot read {path}"):
        for block in blocks(path, halted):
            whole.update(block)
            parts.append(hashlib.sha256(block).hexdigest())
            size += len(block)
    if whole.hexdigest() != sha256:
        raise ModelStoreError(f"{path} is damaged; have its model verified")
    return ChunkTable(size=size, chunk=CHUNK_BYTES, sha256s=tuple(parts))


def _kept(kept: Path, path: Path) -> ChunkTable | None:
    try:
        if kept.stat().st_mtime_ns < path.stat().st_mtime_ns:
            return None
        found = decode(kept.read_bytes(), ChunkTable)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if found.size == path.stat().st_size and found.chunk == CHUNK_BYTES else None


def _hex(blob: str) -> str:
    digits = blob.removeprefix(_PREFIX)
    if not blob.startswith(_PREFIX) or not is_sha256(digits):
        raise ReferenceFormError(f"{blob[:100]!r} is not a blob: write sha256-<64 hex digits>")
    return digits
