"""A stand-in worker on a real socket that does exactly what its script says, byte by byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Script = Callable[["Call"], Awaitable[None]]

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass
class Call:
    """One request that reached the worker."""

    head: bytes
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def events(self, *lines: str) -> None:
        for line in lines:
            data = f"data: {line}\n\n".encode()
            await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def chunk(self, data: bytes) -> None:
        await self.write(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.write(b"0\r\n\r\n")

    async def json(self, status: int, body: bytes, *headers: str) -> None:
        extra = "".join(f"{line}\r\n" for line in headers)
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        await self.write(head.encode() + body)

    def drop(self) -> None:
        self.writer.transport.abort()


@dataclass
class Upstream:
    """A running stand-in; `calls` are the requests so far, `closed` is set when a caller hung up on one."""

    url: str
    calls: list[Call] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def worker(script: Script) -> AsyncIterator[Upstream]:
    state = Upstream("")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                call = Call(head, await reader.readexactly(length), reader, writer)
                state.calls.append(call)
                await script(call)
        except (asyncio.IncompleteReadError, ConnectionError):
            state.closed.set()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def say_hello(call: Call) -> None:
    """Stream two events and the end."""
    await call.write(STREAM_HEAD)
    await call.events('{"n":1}', '{"n":2}', "[DONE]")
    await call.end()


async def answer_json(call: Call) -> None:
    """Answer a small JSON body."""
    await call.json(200, b'{"ok": true}')


async def until_hung_up(call: Call) -> None:
    """Wait until the caller closes the connection."""
    if not await call.reader.read(1):
        raise ConnectionError


async def drop(call: Call) -> None:
    """Break the connection."""
    call.drop()


async def garbage(call: Call) -> None:
    """Send what is no event."""
    await call.write(STREAM_HEAD)
    await call.chunk(b"\x00\xff<html>502</html>\n\n{]")
    await call.end()
