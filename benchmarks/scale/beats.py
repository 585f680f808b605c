"""Heartbeats of a hive that runs nothing: as a hive sends them, by a connection that it keeps, at less cost."""

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from rbee_runtime.hive.heartbeat import DEADLINE_SECONDS
from rbee_runtime.hive.rhythm import Rhythm
from rbee_runtime.link import Link
from rbee_runtime.protocol import Heartbeat, encode

_PROBLEMS = (OSError, TimeoutError, EOFError, ValueError)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Beats:
    """Sends heartbeats until cancelled; `connections` are those that it opened, `failures` those without an answer."""

    def __init__(self, link: Link, queen_url: str, compose: Callable[[], Heartbeat], *, period: float) -> None:
        self.connections = self.failures = 0
        self._context = link.client_context()
        self._queen = urlsplit(queen_url)
        self._compose = compose
        self._rhythm = Rhythm(period)
        self._changed = asyncio.Event()
        self._streams: Streams | None = None

    def changed(self) -> None:
        """Send a heartbeat at once, together with what else changes within the next moment."""
        self._changed.set()

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            while True:
                await self._send()
                await self._rhythm.wait(self._changed)
        finally:
            self._close()

    async def _send(self) -> None:
        self._changed.clear()
        self._rhythm.begin()
        message = self._compose()
        body = encode(message)
        head = (
            f"POST /api/v1/hives/{message.hive}/heartbeat HTTP/1.1\r\nhost: {self._queen.netloc}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                reader, writer = self._streams or await self._connected()
                writer.write(head.encode() + body)
                good = await _answer(reader)
        except _PROBLEMS:
            good = False
        self._rhythm.ended(good=good)
        if not good:
            self.failures += 1
            self._close()

    async def _connected(self) -> Streams:
        self.connections += 1
        tls = self._context if isinstance(self._context, ssl.SSLContext) else None
        self._streams = await asyncio.open_connection(self._queen.hostname, self._queen.port, ssl=tls)
        return self._streams

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _answer(reader: asyncio.StreamReader) -> bool:
    """Read an answer and say whether it is a good one that leaves the connection open."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().splitlines()
    fields = dict(line.split(b": ", 1) for line in lines[1:] if line)
    await reader.readexactly(int(fields.get(b"content-length", b"0")))
    return b" 200 " in lines[0] and fields.get(b"connection") != b"close"
