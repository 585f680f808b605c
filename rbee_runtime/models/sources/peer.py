"""The blobs of another hive, over mutual TLS: every chunk is checked before it counts."""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import httpx
import msgspec

from rbee_runtime.errors import LinkError
from rbee_runtime.link import Link, Role
from rbee_runtime.models import references
from rbee_runtime.models.chunks import MAX_TABLE_BYTES, ChunkTable
from rbee_runtime.models.sources import RemoteFile, TransientError
from rbee_runtime.models.sources.pace import paced
from rbee_runtime.protocol import ModelReport, ModelSpec, decode

STALL_SECONDS = 30.0

TABLE_SECONDS = 900.0
"""A hive that is asked for a blob for the first time reads all of it before it answers."""

MANIFEST_SECONDS = 30.0
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
"""Of a model of more files than `pull.MAX_FILES`."""

_FIXED = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}")
"""Revisions that name content; a branch or tag may have moved, and the source that knows is away."""

MAX_CHUNK_BYTES = 16 * 1024 * 1024


class PeerError(TransientError):
    """This hive does not have the blob, does not answer, or sent something else; the next one may."""


class Peer:
    """One hive that is said to hold models; `url` is its API."""

    def __init__(self, url: str, link: Link, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url.rstrip("/")
        self._clock = clock
        waits = httpx.Timeout(STALL_SECONDS, connect=5.0)
        self._client = link.client(timeout=waits, peer=Role.HIVE)

    async def read(self, file: RemoteFile, offset: int) -> AsyncIterator[bytes]:
        """Yield content from `offset` on, in checked chunks; PeerError when this hive cannot go on."""
        try:
            table = await self._table(file)
            async for chunk in self._chunks(file, table, offset):
                yield chunk
        except (httpx.HTTPError, httpx.InvalidURL, LinkError) as error:
            raise PeerError(f"{self._url} gives no blob: {error or type(error).__name__}") from error

    async def manifest(self, spec: ModelSpec) -> ModelReport:
        """Return what this hive holds under the name of `spec`; PeerError unless it is of the same source."""
        try:
            async with asyncio.timeout(MANIFEST_SECONDS):
                text = await self._bounded(f"/api/v1/manifests/{quote(spec.name)}", MAX_MANIFEST_BYTES, STALL_SECONDS)
            report = decode(text, ModelReport)
        except (httpx.HTTPError, httpx.InvalidURL, LinkError, msgspec.MsgspecError, TimeoutError) as error:
            raise PeerError(f"{self._url} tells nothing of {spec.name}: {error or type(error).__name__}") from error
        revision = references.parse_source(spec.source).revision
        moved = _FIXED.fullmatch(revision) and report.revision not in {"", revision}
        if (
            report.name != spec.name
            or report.source not in {"", references.identity(spec.source)}
            or moved
            or not report.files
        ):
            raise PeerError(f"{self._url} has another model under the name {spec.name}")
        return report

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    async def _table(self, file: RemoteFile) -> ChunkTable:
        text = await self._bounded(f"/api/v1/blobs/sha256-{file.sha256}/chunks", MAX_TABLE_BYTES, TABLE_SECONDS)
        try:
            table = decode(text, ChunkTable)
        except msgspec.MsgspecError as error:
            raise PeerError(f"{self._url} sends no table of chunks: {error}") from error
        fits = 0 < table.chunk <= MAX_CHUNK_BYTES and len(table.sha256s) == -(-table.size // table.chunk)
        if not fits or file.size not in {None, table.size}:
            raise PeerError(f"{self._url} has another file: {table.size} bytes in {len(table.sha256s)} chunks")
        return table

    async def _bounded(self, path: str, most: int, wait: float) -> bytes:
        """Return an answer of at most `most` bytes that starts within `wait` seconds."""
        text = bytearray()
        waits = httpx.Timeout(wait, connect=5.0)
        async with self._client.stream("GET", f"{self._url}{path}", timeout=waits) as answer:
            self._check(answer, 200)
            async for block in paced(answer.aiter_bytes(), self._url, self._clock):
                text += block
                if len(text) > most:
                    raise PeerError(f"{self._url} sends more than {most} bytes for {path}")
        return bytes(text)

    async def _chunks(self, file: RemoteFile, table: ChunkTable, offset: int) -> AsyncIterator[bytes]:
        """Ask from the start of the chunk that `offset` is in, and leave out what is there already."""
        number = offset // table.chunk
        skip = offset - number * table.chunk
        buffer = bytearray()
        headers = {"range": f"bytes={number * table.chunk}-", "accept-encoding": "identity"}
        async with self._client.stream(
            "GET", f"{self._url}/api/v1/blobs/sha256-{file.sha256}", headers=headers
        ) as answer:
            self._check(answer, 206)
            async for block in paced(answer.aiter_raw(), self._url, self._clock):
                buffer += block
                while number < len(table.sha256s) and len(buffer) >= _length(table, number):
                    yield self._checked(buffer, table, number)[skip:]
                    skip, number = 0, number + 1
                if buffer and number == len(table.sha256s):
                    raise PeerError(f"{self._url} sends more than the {table.size} bytes of its table")
        if number < len(table.sha256s):
            raise PeerError(f"{self._url} broke off at chunk {number} of {len(table.sha256s)}")

    def _checked(self, buffer: bytearray, table: ChunkTable, number: int) -> bytes:
        length = _length(table, number)
        chunk = bytes(buffer[:length])
        del buffer[:length]
        if hashlib.sha256(chunk).hexdigest() != table.sha256s[number]:
            raise PeerError(f"{self._url} sends a damaged chunk {number}")
        return chunk

    def _check(self, answer: httpx.Response, status: int) -> None:
        if answer.status_code != status:
            raise PeerError(f"{self._url} answers {answer.status_code} instead of {status}")


def _length(table: ChunkTable, number: int) -> int:
    return min(table.chunk, table.size - number * table.chunk)
