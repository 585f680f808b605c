"""The blobs of another hive, over mutual TLS: every chunk is checked before it counts."""

import hashlib
from collections.abc import AsyncIterator

import httpx
import msgspec

from rbee_runtime.errors import LinkError
from rbee_runtime.link import Link, Role
from rbee_runtime.models.chunks import MAX_TABLE_BYTES, ChunkTable
from rbee_runtime.models.sources import RemoteFile, TransientError

STALL_SECONDS = 30.0

TABLE_SECONDS = 900.0
"""A hive that is asked for a blob for the first time reads all of it before it answers."""

MAX_CHUNK_BYTES = 16 * 1024 * 1024


class PeerError(TransientError):
    """This hive does not have the blob, does not answer, or sent something else; the next one may."""


class Peer:
    """One hive that is said to hold models; `url` is its API."""

    def __init__(self, url: str, link: Link) -> None:
        self._url = url.rstrip("/")
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

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()

    async def _table(self, file: RemoteFile) -> ChunkTable:
        url = f"{self._url}/api/v1/blobs/sha256-{file.sha256}/chunks"
        text = bytearray()
        async with self._client.stream("GET", url, timeout=httpx.Timeout(TABLE_SECONDS, connect=5.0)) as answer:
            self._check(answer, 200)
            async for block in answer.aiter_bytes():
                text += block
                if len(text) > MAX_TABLE_BYTES:
                    raise PeerError(f"{self._url} sends more than {MAX_TABLE_BYTES} bytes of hashes")
        try:
            table = msgspec.json.decode(text, type=ChunkTable)
        except msgspec.MsgspecError as error:
            raise PeerError(f"{self._url} sends no table of chunks: {error}") from error
        fits = 0 < table.chunk <= MAX_CHUNK_BYTES and len(table.sha256s) == -(-table.size // table.chunk)
        if not fits or file.size not in {None, table.size}:
            raise PeerError(f"{self._url} has another file: {table.size} bytes in {len(table.sha256s)} chunks")
        return table

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
            async for block in answer.aiter_raw():
                buffer += block
                while number < len(table.sha256s) and len(buffer) >= _length(table, number):
                    yield self._checked(buffer, table, number)[skip:]
                    skip, number = 0, number + 1
        if buffer or number < len(table.sha256s):
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
