"""A real HTTP server on loopback that goes wrong as it is told, one fault per download; it counts what it sends."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

BLOCK = 64 * 1024


@dataclass
class Fault:
    """What one GET does: close after `cut` body bytes, or send other content, headers or status than it should."""

    cut: int | None = None
    status: int | None = None
    ignore_range: bool = False
    content: bytes | None = None
    etag: str | None = None
    length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    pause: float = 0.0


@dataclass
class FaultyServer:
    """`faults` are used up one per GET, the last one stays; `sent` counts body bytes, `asked` the requests' heads."""

    content: bytes
    faults: list[Fault] = field(default_factory=lambda: [Fault()])
    etag: str = '"v1"'
    port: int = 0
    sent: int = 0
    gets: int = 0
    connections: int = 0
    asked: list[str] = field(default_factory=list)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str = "/m.gguf") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def reached(self, count: int) -> None:
        """Wait until so many body bytes were sent."""
        async with self.moved:
            await self.moved.wait_for(lambda: self.sent >= count)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(head.decode("latin-1"))
                if not await self._answer(head.decode("latin-1"), writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> bool:
        if head.startswith("HEAD"):
            etag = self.faults[0].etag or self.etag
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.content)}\r\nETag: {etag}\r\n\r\n".encode())
            return True
        self.gets += 1
        fault = self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]
        if fault.raw is not None:
            writer.write(fault.raw)
            await writer.drain()
            return False
        content = self.content if fault.content is None else fault.content
        found = re.search(r"range: bytes=(\d+)-", head, re.IGNORECASE)
        start = int(found[1]) if found and not fault.ignore_range else 0
        validator = re.search(r"if-range: (\S+)", head, re.IGNORECASE)
        if validator and validator[1] != (fault.etag or self.etag):
            start = 0
        if start >= len(content) > 0:
            writer.write(b"HTTP/1.1 416 X\r\nContent-Length: 0\r\nContent-Range: bytes */%d\r\n\r\n" % len(content))
            return True
        writer.write(self._head(fault, content, start))
        return await self._body(fault, content[start:], writer)

    def _head(self, fault: Fault, content: bytes, start: int) -> bytes:
        status = fault.status or (206 if start else 200)
        fields = {
            "Content-Length": str(fault.length if fault.length is not None else len(content) - start),
            "ETag": fault.etag or self.etag,
            **({"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}),
            **fault.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode()

    async def _body(self, fault: Fault, body: bytes, writer: asyncio.StreamWriter) -> bool:
        until = len(body) if fault.cut is None else max(0, fault.cut)
        for place in range(0, min(until, len(body)), BLOCK):
            block = body[place : min(place + BLOCK, until)]
            writer.write(block)
            await writer.drain()
            async with self.moved:
                self.sent += len(block)
                self.moved.notify_all()
            if fault.pause:
                await asyncio.sleep(fault.pause)
        return fault.cut is None and fault.length is None


@asynccontextmanager
async def faulty_server(content: bytes, *faults: Fault) -> AsyncIterator[FaultyServer]:
    """Run a server on a free port of loopback."""
    state = FaultyServer(content, list(faults) or [Fault()])
    server = await asyncio.start_server(state.handle, "127.0.0.1", 0, limit=2**20)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
